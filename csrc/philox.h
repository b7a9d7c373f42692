// Random words and normals, counter-based; see rsd_fast/ops/philox.py.
#pragma once
#include <cstdint>

namespace rsd {

struct PhiloxArgs {
  const int64_t *sample, *element, *step;  // [count] each, taken modulo 2^32
  uint32_t* out;                           // [count, 4]
  int64_t count;
  uint64_t seed;
  uint32_t stream;
};

struct RandnArgs {
  const int64_t* sample;  // [batch], sample_stride apart, taken modulo 2^32
  const int64_t* step;    // [batch], step_stride apart: 0 where one number serves every sample
  float* out;             // [batch, inner], dense
  int64_t batch, inner, sample_stride, step_stride;
  uint64_t seed;
  uint32_t stream;

  int64_t blocks() const { return (inner + 3) / 4; }  // of a sample
};

void philox_cpu(const PhiloxArgs&, int threads);
void randn_cpu(const RandnArgs&, int threads);
#ifdef RSD_WITH_CUDA
void philox_cuda(const PhiloxArgs&, int device, void* stream);
void randn_cuda(const RandnArgs&, int device, void* stream);
#endif

}  // namespace rsd
