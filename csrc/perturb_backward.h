// dy = dx_t + c_in dnet_input; rsd_fast/ops/perturb.py has the mathematics.
#pragma once
#include "elements.h"
#include "isa.h"

namespace rsd {

struct PerturbBackwardArgs {
  const void* grad_x_t;        // [batch, inner] dtype
  const void* grad_net_input;  // [batch, inner] raw_dtype
  const void* sigma;           // [batch] dtype, sigma_stride apart
  void* grad_y;                // [batch, inner] dtype
  int64_t batch, inner, sigma_stride;
  double sigma_data;
  DType raw_dtype, dtype;

  int64_t work() const { return batch * chunks_of(inner); }
  int64_t grain() const { return 4; }
};

RSD_CPU_KERNEL(perturb_backward, PerturbBackwardArgs);
#ifdef RSD_WITH_CUDA
void perturb_backward_cuda(const PerturbBackwardArgs&, int device, void* stream);
#endif

}  // namespace rsd
