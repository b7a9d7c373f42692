// K x and K^T x of a blur; rsd_fast/ops/blur.py has the mathematics.
#pragma once
#include "fields.h"
#include "isa.h"
#include "linear.h"

namespace rsd {

#define RSD_BLUR_FIELDS(FIELD)                                                                                      \
  FIELD(const void*, x)        /* [batch, channels, height, width] dtype, contiguous or channels-last */            \
  FIELD(const double*, kernel) /* [kernel_rows] where separable, else [kernel_rows, kernel_columns]; on the host */ \
  FIELD(void*, out)            /* as x */                                                                           \
  FIELD(int64_t, batch)                                                                                             \
  FIELD(int64_t, channels)                                                                                          \
  FIELD(int64_t, height)                                                                                            \
  FIELD(int64_t, width)                                                                                             \
  FIELD(int, kernel_rows)                                                                                           \
  FIELD(int, kernel_columns)                                                                                        \
  FIELD(bool, separable)                                                                                            \
  FIELD(bool, channels_last)                                                                                        \
  FIELD(DType, dtype)

struct BlurArgs {
  RSD_FIELDS(RSD_BLUR_FIELDS)

  int columns() const { return blur_columns(step_of(channels, channels_last)); }  // of a tile
  int64_t tiles() const { return tiles_of(height, width, columns()); }
  int64_t work() const { return batch * planes_of(channels, channels_last) * tiles(); }
  int64_t grain() const {  // some 100 us
    const int64_t pixels = height * width * step_of(channels, channels_last) / tiles() + 1;
    const int64_t taps = separable ? kernel_rows + kernel_columns : kernel_rows * kernel_columns;
    return (1 << 20) / (pixels * taps) + 1;
  }
};

RSD_CPU_KERNEL(blur, BlurArgs);
RSD_CPU_KERNEL(blur_adjoint, BlurArgs);
#ifdef RSD_WITH_CUDA
void blur_cuda(const BlurArgs&, int device, void* stream);
void blur_adjoint_cuda(const BlurArgs&, int device, void* stream);
#endif

}  // namespace rsd
