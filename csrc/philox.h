// Random words and normals, counter-based; see rsd_fast/ops/philox.py.
#pragma once
#include <cstdint>

#include "isa.h"

namespace rsd {

struct PhiloxArgs {
  const int64_t *sample, *element, *step;  // [count] each, taken modulo 2^32
  uint32_t* out;                           // [count, 4]
  int64_t count;
  uint64_t seed;
  uint32_t stream;

  int64_t work() const { return count; }
  int64_t grain() const { return 8192; }
};

struct RandnArgs {
  const int64_t* sample;  // [batch], sample_stride apart, taken modulo 2^32
  const int64_t* step;    // [batch], step_stride apart: 0 where one number serves every sample
  float* out;             // [batch, inner], dense
  int64_t batch, inner, sample_stride, step_stride;
  uint64_t seed;
  uint32_t stream;

  int64_t blocks() const { return (inner + 3) / 4; }     // of a sample
  int64_t tiles() const { return (inner + 255) / 256; }  // of a sample
  int64_t work() const { return batch * tiles(); }
  int64_t grain() const { return 128; }
};

RSD_CPU_KERNEL(philox, PhiloxArgs);
RSD_CPU_KERNEL(randn, RandnArgs);
#ifdef RSD_WITH_CUDA
void philox_cuda(const PhiloxArgs&, int device, void* stream);
void randn_cuda(const RandnArgs&, int device, void* stream);
#endif

}  // namespace rsd
