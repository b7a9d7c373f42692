// dy = dx_t + c_in dnet_input; rsd_fast/ops/perturb.py has the mathematics.
#pragma once
#include "elements.h"
#include "fields.h"
#include "isa.h"

namespace rsd {

#define RSD_PERTURB_BACKWARD_FIELDS(FIELD)                                   \
  FIELD(const void*, grad_x_t)       /* [batch, inner] dtype */              \
  FIELD(const void*, grad_net_input) /* [batch, inner] raw_dtype */          \
  FIELD(const void*, sigma)          /* [batch] dtype, sigma_stride apart */ \
  FIELD(void*, grad_y)               /* [batch, inner] dtype */              \
  FIELD(int64_t, batch)                                                      \
  FIELD(int64_t, inner)                                                      \
  FIELD(int64_t, sigma_stride)                                               \
  FIELD(double, sigma_data)                                                  \
  FIELD(DType, raw_dtype)                                                    \
  FIELD(DType, dtype)

struct PerturbBackwardArgs {
  RSD_FIELDS(RSD_PERTURB_BACKWARD_FIELDS)

  int64_t work() const { return batch * chunks_of(inner); }
  int64_t grain() const { return 4; }
};

RSD_CPU_KERNEL(perturb_backward, PerturbBackwardArgs);
#ifdef RSD_WITH_CUDA
void perturb_backward_cuda(const PerturbBackwardArgs&, int device, void* stream);
#endif

}  // namespace rsd
