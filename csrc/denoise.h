// D = c_skip x_t + c_out F and its gradients; rsd_fast/ops/denoise.py has the mathematics.
#pragma once
#include "elements.h"
#include "fields.h"
#include "isa.h"

namespace rsd {

#define RSD_DENOISE_FIELDS(FIELD)                                   \
  FIELD(const void*, F)     /* [batch, inner] raw_dtype */          \
  FIELD(const void*, x_t)   /* [batch, inner] dtype */              \
  FIELD(const void*, sigma) /* [batch] dtype, sigma_stride apart */ \
  FIELD(void*, D)           /* [batch, inner] dtype */              \
  FIELD(int64_t, batch)                                             \
  FIELD(int64_t, inner)                                             \
  FIELD(int64_t, sigma_stride)                                      \
  FIELD(double, sigma_data)                                         \
  FIELD(DType, raw_dtype)                                           \
  FIELD(DType, dtype)

struct DenoiseArgs {
  RSD_FIELDS(RSD_DENOISE_FIELDS)

  int64_t work() const { return batch * chunks_of(inner); }
  int64_t grain() const { return 4; }
};

#define RSD_DENOISE_BACKWARD_FIELDS(FIELD)                                      \
  FIELD(const void*, grad)  /* [batch, inner] dtype */                          \
  FIELD(const void*, sigma) /* [batch] dtype, sigma_stride apart */             \
  FIELD(void*, grad_F)      /* [batch, inner] raw_dtype; null: not asked for */ \
  FIELD(void*, grad_x_t)    /* [batch, inner] dtype; null: not asked for */     \
  FIELD(int64_t, batch)                                                         \
  FIELD(int64_t, inner)                                                         \
  FIELD(int64_t, sigma_stride)                                                  \
  FIELD(double, sigma_data)                                                     \
  FIELD(DType, raw_dtype)                                                       \
  FIELD(DType, dtype)

struct DenoiseBackwardArgs {
  RSD_FIELDS(RSD_DENOISE_BACKWARD_FIELDS)

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
