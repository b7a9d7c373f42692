// weight sum (mask (h - y))^2 and its gradient in F; rsd_fast/ops/denoising_loss.py has the mathematics.
#pragma once
#include "elements.h"
#include "isa.h"
#include "mask.h"

namespace rsd {

struct DenoisingLossArgs {
  const void* F;                  // [batch, inner] raw_dtype
  const void *x_t, *y;            // [batch, inner] dtype
  const void *sigma, *sigma_obs;  // [batch] dtype, their strides apart
  const void* grad;               // [batch] dtype, grad_stride apart; backward alone
  void* partial;                  // [batch, chunks_of(inner)] dtype, sums over chunks; forward on CUDA alone
  void* loss;                     // [batch] dtype; forward alone
  void* grad_F;                   // [batch, inner] raw_dtype; backward alone
  MaskArgs mask;
  int64_t batch, inner, sigma_stride, sigma_obs_stride, grad_stride;
  double sigma_data;
  DType raw_dtype, dtype;

  // A sample is one thread's, forward and backward: its sum has one order.
  int64_t work() const { return batch; }
  int64_t grain() const { return 1 + 65536 / (inner + 1); }
};

RSD_CPU_KERNEL(denoising_loss, DenoisingLossArgs);
RSD_CPU_KERNEL(denoising_loss_backward, DenoisingLossArgs);
#ifdef RSD_WITH_CUDA
void denoising_loss_cuda(const DenoisingLossArgs&, int device, void* stream);
void denoising_loss_backward_cuda(const DenoisingLossArgs&, int device, void* stream);
#endif

}  // namespace rsd
