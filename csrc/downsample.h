// Means over blocks of pixels, and their transpose; rsd_fast/ops/downsample.py has the mathematics.
#pragma once
#include "fields.h"
#include "isa.h"
#include "linear.h"

namespace rsd {

// h = blocks_of(height, factor), w = blocks_of(width, factor); every tensor is contiguous or channels-last.
#define RSD_DOWNSAMPLE_FIELDS(FIELD)                                                                          \
  FIELD(const void*, x) /* [batch, channels, height, width] dtype; for the adjoint [batch, channels, h, w] */ \
  FIELD(void*, out)     /* [batch, channels, h, w] dtype; for the adjoint [batch, channels, height, width] */ \
  FIELD(int64_t, batch)                                                                                       \
  FIELD(int64_t, channels)                                                                                    \
  FIELD(int64_t, height)                                                                                      \
  FIELD(int64_t, width)                                                                                       \
  FIELD(int, factor)                                                                                          \
  FIELD(bool, channels_last)                                                                                  \
  FIELD(DType, dtype)

struct DownsampleArgs {
  RSD_FIELDS(RSD_DOWNSAMPLE_FIELDS)

  int columns() const { return downsample_columns(factor, step_of(channels, channels_last)); }  // of a tile
  int64_t tiles() const { return tiles_of(blocks_of(height, factor), blocks_of(width, factor), columns()); }
  int64_t work() const { return batch * planes_of(channels, channels_last) * tiles(); }
  int64_t grain() const {  // some 100 us
    const int64_t pixels = batch * channels * height * width;
    return pixels == 0 ? 1 : (int64_t(1) << 18) * work() / pixels + 1;
  }
};

RSD_CPU_KERNEL(downsample, DownsampleArgs);
RSD_CPU_KERNEL(downsample_adjoint, DownsampleArgs);
#ifdef RSD_WITH_CUDA
void downsample_cuda(const DownsampleArgs&, int device, void* stream);
void downsample_adjoint_cuda(const DownsampleArgs&, int device, void* stream);
#endif

}  // namespace rsd
