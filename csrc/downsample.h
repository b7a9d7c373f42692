// Means over blocks of pixels, and their transpose; rsd_fast/ops/downsample.py has the mathematics.
#pragma once
#include "isa.h"
#include "linear.h"

namespace rsd {

// h = blocks_of(height, factor), w = blocks_of(width, factor); every tensor is contiguous or channels-last.
struct DownsampleArgs {
  const void* x;  // [batch, channels, height, width] dtype; of the adjoint [batch, channels, h, w]
  void* out;      // [batch, channels, h, w] dtype; of the adjoint [batch, channels, height, width]
  int64_t batch, channels, height, width;
  int factor;
  bool channels_last;
  DType dtype;

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
