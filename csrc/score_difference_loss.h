// SiD's generator loss and its four gradients; rsd_fast/ops/score_difference_loss.py has the mathematics.
#pragma once
#include "elements.h"
#include "fields.h"
#include "isa.h"
#include "mask.h"

namespace rsd {

#define RSD_SCORE_DIFFERENCE_LOSS_FIELDS(FIELD)                                                                  \
  FIELD(const void*, F_teacher) /* [batch, inner] raw_dtype */                                                   \
  FIELD(const void*, F_fake)    /* [batch, inner] raw_dtype */                                                   \
  FIELD(const void*, u_t)       /* [batch, inner] dtype */                                                       \
  FIELD(const void*, u)         /* [batch, inner] dtype */                                                       \
  FIELD(const void*, sigma)     /* [batch] dtype, sigma_stride apart */                                          \
  FIELD(const void*, grad)      /* [batch] dtype, grad_stride apart; backward only */                            \
  FIELD(void*, partial)         /* [batch, chunks_of(inner), 2] dtype, sums over chunks; forward on CUDA only */ \
  FIELD(void*, loss)            /* [batch] dtype; forward only */                                                \
  FIELD(void*, weight)          /* [batch] dtype; forward writes it, backward reads it */                        \
  FIELD(void*, grad_F_teacher)  /* [batch, inner] raw_dtype; null: not asked for */                              \
  FIELD(void*, grad_F_fake)     /* [batch, inner] raw_dtype; null: not asked for */                              \
  FIELD(void*, grad_u_t)        /* [batch, inner] dtype; null: not asked for */                                  \
  FIELD(void*, grad_u)          /* [batch, inner] dtype; null: not asked for */                                  \
  FIELD(MaskArgs, mask)                                                                                          \
  FIELD(int64_t, batch)                                                                                          \
  FIELD(int64_t, inner)                                                                                          \
  FIELD(int64_t, sigma_stride)                                                                                   \
  FIELD(int64_t, grad_stride)                                                                                    \
  FIELD(double, alpha)                                                                                           \
  FIELD(double, sigma_data)                                                                                      \
  FIELD(DType, raw_dtype)                                                                                        \
  FIELD(DType, dtype)

struct ScoreDifferenceLossArgs {
  RSD_FIELDS(RSD_SCORE_DIFFERENCE_LOSS_FIELDS)

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
