// weight sum (mask (h - y))^2 and its gradient in F; rsd_fast/ops/denoising_loss.py has the mathematics.
#pragma once
#include "elements.h"
#include "fields.h"
#include "isa.h"
#include "mask.h"

namespace rsd {

#define RSD_DENOISING_LOSS_FIELDS(FIELD)                                                                      \
  FIELD(const void*, F)         /* [batch, inner] raw_dtype */                                                \
  FIELD(const void*, x_t)       /* [batch, inner] dtype */                                                    \
  FIELD(const void*, y)         /* [batch, inner] dtype */                                                    \
  FIELD(const void*, sigma)     /* [batch] dtype, sigma_stride apart */                                       \
  FIELD(const void*, sigma_obs) /* [batch] dtype, sigma_obs_stride apart */                                   \
  FIELD(const void*, grad)      /* [batch] dtype, grad_stride apart; backward only */                         \
  FIELD(void*, partial)         /* [batch, chunks_of(inner)] dtype, sums over chunks; forward on CUDA only */ \
  FIELD(void*, loss)            /* [batch] dtype; forward only */                                             \
  FIELD(void*, grad_F)          /* [batch, inner] raw_dtype; backward only */                                 \
  FIELD(MaskArgs, mask)                                                                                       \
  FIELD(int64_t, batch)                                                                                       \
  FIELD(int64_t, inner)                                                                                       \
  FIELD(int64_t, sigma_stride)                                                                                \
  FIELD(int64_t, sigma_obs_stride)                                                                            \
  FIELD(int64_t, grad_stride)                                                                                 \
  FIELD(double, sigma_data)                                                                                   \
  FIELD(DType, raw_dtype)                                                                                     \
  FIELD(DType, dtype)

struct DenoisingLossArgs {
  RSD_FIELDS(RSD_DENOISING_LOSS_FIELDS)

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
