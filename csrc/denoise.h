// D = c_skip x_t + c_out F and its gradients; rsd_fast/ops/denoise.py has the mathematics.
#pragma once
#include "elements.h"
#include "isa.h"

namespace rsd {

struct DenoiseArgs {
  const void* F;      // [batch, inner] raw_dtype
  const void* x_t;    // [batch, inner] dtype
  const void* sigma;  // [batch] dtype, sigma_stride apart
  void* D;            // [batch, inner] dtype
  int64_t batch, inner, sigma_stride;
  double sigma_data;
  DType raw_dtype, dtype;

  int64_t work() const { return batch * chunks_of(inner); }
  int64_t grain() const { return 4; }
};

struct DenoiseBackwardArgs {
  const void* grad;         // [batch, inner] dtype
  const void* sigma;        // [batch] dtype, sigma_stride apart
  void *grad_F, *grad_x_t;  // [batch, inner] raw_dtype and dtype; null where not wanted
  int64_t batch, inner, sigma_stride;
  double sigma_data;
  DType raw_dtype, dtype;

  int64_t work() const { return batch * chunks_of(inner); }
  int64_t grain() const { return 4; }
};

RSD_CPU_KERNEL(denoise, DenoiseArgs);
RSD_CPU_KERNEL(denoise_backward, DenoiseBackwardArgs);
#ifdef RSD_WITH_CUDA
void denoise_cuda(const DenoiseArgs&, int device, void* stream);
void denoise_backward_cuda(const DenoiseBackwardArgs&, int device, void* stream);
#endif

}  // namespace rsd
