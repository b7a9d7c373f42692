// y = silu(n gain + offset), n being x normalised by groups of channels, and its gradient;
// rsd_fast/ops/group_norm_silu.py has the mathematics. A is the type that dtype is computed with.
#pragma once
#include "dtype.h"
#include "isa.h"

namespace rsd {

// What forward and backward share. Work is cut into units of whole groups: a sample where channels are innermost,
// else a group of a sample.
struct GroupNormSiluArgs {
  const void* x;       // [batch, channels, pixels] dtype, or [batch, pixels, channels] where channels_last
  const void* gain;    // [batch, channels] A, gain_stride apart
  const void* offset;  // [batch, channels] A, offset_stride apart
  void *mean, *rstd;   // [batch, groups] A; written by the forward, read by the backward
  double* sums;        // [batch, 2, channels]; scratch of the forward, S0 and S1 of the backward
  void* y;             // as x; forward only
  const void* grad;    // as x; backward only
  void* dx;            // as x, in memory of its own, or null where not wanted; backward only
  int64_t batch, channels, pixels, groups, gain_stride, offset_stride;
  double eps;  // forward only
  bool channels_last, silu;
  DType dtype;

  int64_t units_per_sample() const { return channels_last ? 1 : groups; }
  int64_t work() const { return batch * units_per_sample(); }
  int64_t grain() const { return 1 + 65536 * units_per_sample() / (channels * pixels); }
};

RSD_CPU_KERNEL(group_norm_silu, GroupNormSiluArgs);
RSD_CPU_KERNEL(group_norm_silu_backward, GroupNormSiluArgs);

}  // namespace rsd
