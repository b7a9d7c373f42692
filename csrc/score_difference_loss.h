// SiD's generator loss and its four gradients; rsd_fast/ops/score_difference_loss.py has the mathematics.
#pragma once
#include "elements.h"
#include "isa.h"
#include "mask.h"

namespace rsd {

struct ScoreDifferenceLossArgs {
  const void *F_teacher, *F_fake;  // [batch, inner] raw_dtype
  const void *u_t, *u;             // [batch, inner] dtype
  const void* sigma;               // [batch] dtype, sigma_stride apart
  const void* grad;                // [batch] dtype, grad_stride apart; backward alone
  void* partial;                   // [batch, chunks_of(inner), 2] dtype, sums over chunks; forward on CUDA alone
  void* loss;                      // [batch] dtype; forward alone
  void* weight;                    // [batch] dtype; forward writes it, backward reads it
  void *grad_F_teacher, *grad_F_fake, *grad_u_t, *grad_u;  // [batch, inner], raw_dtype and dtype; null: not wanted
  MaskArgs mask;
  int64_t batch, inner, sigma_stride, grad_stride;
  double alpha, sigma_data;
  DType raw_dtype, dtype;

  // A sample is one thread's, forward and backward: its sums have one order.
  int64_t work() const { return batch; }
  int64_t grain() const { return 1 + 65536 / (inner + 1); }
};

RSD_CPU_KERNEL(score_difference_loss, ScoreDifferenceLossArgs);
RSD_CPU_KERNEL(score_difference_loss_backward, ScoreDifferenceLossArgs);
#ifdef RSD_WITH_CUDA
void score_difference_loss_cuda(const ScoreDifferenceLossArgs&, int device, void* stream);
void score_difference_loss_backward_cuda(const ScoreDifferenceLossArgs&, int device, void* stream);
#endif

}  // namespace rsd
