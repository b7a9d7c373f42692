// y = A(x) + sigma_obs eps, then x_t = y + sqrt(sigma^2 - sigma_obs^2) n and c_in x_t, each part on demand.
// rsd_fast/ops/observe.py and perturb.py have the mathematics.
#pragma once
#include "dtype.h"
#include "fields.h"
#include "isa.h"

namespace rsd {

enum Operator : int { kIdentity = 0, kMask = 1, kBlur = 2, kDownsample = 3 };  // KINDS of rsd_fast/ops/observe.py

#define RSD_OBSERVE_FIELDS(FIELD)                                                                                      \
  FIELD(const void*, images)   /* [batch, channels, in_height, in_width] uint8, read as v / 127.5 - 1, or dtype */     \
  FIELD(const int64_t*, index) /* [batch], whose observations and masks these are; null: observed already */           \
  FIELD(const int64_t*, observation_step) /* [batch], of the observation's noise, a mask's being 0; null with index */ \
  FIELD(const int64_t*, sample)           /* [batch], whose diffusion noise this is; null: no perturbation */          \
  FIELD(const int64_t*, step)             /* [batch]; null with sample */                                              \
  FIELD(const void*, sigma_obs) /* [batch] dtype, sigma_obs_stride apart, as all of [batch] are their strides apart */ \
  FIELD(const void*, sigma)     /* [batch] dtype; null with sample */                                                  \
  FIELD(const double*, kernel)  /* of kBlur, as in blur.h */                                                           \
  FIELD(void*, y)               /* [batch, channels, height, width] dtype; null: not asked for */                      \
  FIELD(void*, x_t)             /* likewise */                                                                         \
  FIELD(void*, net_input)       /* likewise, net_dtype */                                                              \
  FIELD(uint8_t*, mask) /* [batch, mask_elements()], or [batch, bytes] of a bit for each; null: not asked for */       \
  FIELD(int64_t, batch)                                                                                                \
  FIELD(int64_t, channels)                                                                                             \
  FIELD(int64_t, in_height)                                                                                            \
  FIELD(int64_t, in_width)                                                                                             \
  FIELD(int64_t, height)                                                                                               \
  FIELD(int64_t, width)                                                                                                \
  FIELD(int64_t, index_stride)                                                                                         \
  FIELD(int64_t, observation_step_stride)                                                                              \
  FIELD(int64_t, sample_stride)                                                                                        \
  FIELD(int64_t, step_stride)                                                                                          \
  FIELD(int64_t, sigma_obs_stride)                                                                                     \
  FIELD(int64_t, sigma_stride)                                                                                         \
  FIELD(uint64_t, seed)                                                                                                \
  FIELD(uint64_t, noise_seed)                                                                                          \
  FIELD(uint64_t, threshold) /* a pixel is kept where its random word is at least this */                              \
  FIELD(double, sigma_data)                                                                                            \
  FIELD(int, kernel_rows)                                                                                              \
  FIELD(int, kernel_columns)                                                                                           \
  FIELD(int, factor)                                                                                                   \
  FIELD(Operator, kind)                                                                                                \
  FIELD(DType, images_dtype)                                                                                           \
  FIELD(DType, dtype)                                                                                                  \
  FIELD(DType, net_dtype)                                                                                              \
  FIELD(bool, separable)                                                                                               \
  FIELD(bool, shared)                                                                                                  \
  FIELD(bool, packed)                                                                                                  \
  FIELD(bool, images_channels_last)                                                                                    \
  FIELD(bool, channels_last)

struct ObserveArgs {
  RSD_FIELDS(RSD_OBSERVE_FIELDS)

  RSD_HD_MEMBER int64_t pixels() const { return height * width; }
  RSD_HD_MEMBER int64_t mask_elements() const { return (shared ? 1 : channels) * pixels(); }
  int64_t work() const { return batch; }
  int64_t grain() const { return 1 + 16384 / (channels * pixels() + 1); }
};

RSD_CPU_KERNEL(observe, ObserveArgs);
#ifdef RSD_WITH_CUDA
void observe_cuda(const ObserveArgs&, int device, void* stream);
#endif

}  // namespace rsd
