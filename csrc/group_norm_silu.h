// y = silu(n gain + offset), n being x normalised by groups of channels, and its gradient;
// rsd_fast/ops/group_norm_silu.py has the mathematics. A is the type that dtype is computed with.
#pragma once
#include "dtype.h"
#include "fields.h"
#include "isa.h"

namespace rsd {

// What forward and backward share. Work is cut into units of whole groups: a sample where channels are innermost,
// else a group of a sample.
#define RSD_GROUP_NORM_SILU_FIELDS(FIELD)                                                                            \
  FIELD(const void*, x)      /* [batch, channels, pixels] dtype, or [batch, pixels, channels] where channels_last */ \
  FIELD(const void*, gain)   /* [batch, channels] A, gain_stride apart */                                            \
  FIELD(const void*, offset) /* [batch, channels] A, offset_stride apart */                                          \
  FIELD(void*, mean)         /* [batch, groups] A; the forward writes it, the backward reads it */                   \
  FIELD(void*, rstd)         /* as mean */                                                                           \
  FIELD(double*, sums)       /* [batch, 2, channels]; scratch of the forward, S0 and S1 of the backward */           \
  FIELD(void*, y)            /* as x; forward only */                                                                \
  FIELD(const void*, grad)   /* as x; backward only */                                                               \
  FIELD(void*, dx)           /* as x, in memory of its own; null: not asked for; backward only */                    \
  FIELD(int64_t, batch)                                                                                              \
  FIELD(int64_t, channels)                                                                                           \
  FIELD(int64_t, pixels)                                                                                             \
  FIELD(int64_t, groups)                                                                                             \
  FIELD(int64_t, gain_stride)                                                                                        \
  FIELD(int64_t, offset_stride)                                                                                      \
  FIELD(double, eps) /* forward only */                                                                              \
  FIELD(bool, channels_last)                                                                                         \
  FIELD(bool, silu)                                                                                                  \
  FIELD(DType, dtype)

struct GroupNormSiluArgs {
  RSD_FIELDS(RSD_GROUP_NORM_SILU_FIELDS)

  int64_t units_per_sample() const { return channels_last ? 1 : groups; }
  int64_t work() const { return batch * units_per_sample(); }
  int64_t grain() const { return 1 + 65536 * units_per_sample() / (channels * pixels); }
};

RSD_CPU_KERNEL(group_norm_silu, GroupNormSiluArgs);
RSD_CPU_KERNEL(group_norm_silu_backward, GroupNormSiluArgs);

}  // namespace rsd
