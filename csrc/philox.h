// Random words and normals, counter-based; see rsd_fast/ops/philox.py.
#pragma once
#include <cstdint>

#include "fields.h"
#include "isa.h"

namespace rsd {

#define RSD_PHILOX_FIELDS(FIELD)                                  \
  FIELD(const int64_t*, sample)  /* [count], taken modulo 2^32 */ \
  FIELD(const int64_t*, element) /* likewise */                   \
  FIELD(const int64_t*, step)    /* likewise */                   \
  FIELD(uint32_t*, out)          /* [count, 4] */                 \
  FIELD(int64_t, count)                                           \
  FIELD(uint64_t, seed)                                           \
  FIELD(uint32_t, stream)

struct PhiloxArgs {
  RSD_FIELDS(RSD_PHILOX_FIELDS)

  int64_t work() const { return count; }
  int64_t grain() const { return 8192; }
};

#define RSD_RANDN_FIELDS(FIELD)                                                                          \
  FIELD(const int64_t*, sample) /* [batch], sample_stride apart, taken modulo 2^32 */                    \
  FIELD(const int64_t*, step)   /* [batch], step_stride apart: 0 where one number serves every sample */ \
  FIELD(float*, out)            /* [batch, inner], dense */                                              \
  FIELD(int64_t, batch)                                                                                  \
  FIELD(int64_t, inner)                                                                                  \
  FIELD(int64_t, sample_stride)                                                                          \
  FIELD(int64_t, step_stride)                                                                            \
  FIELD(uint64_t, seed)                                                                                  \
  FIELD(uint32_t, stream)

struct RandnArgs {
  RSD_FIELDS(RSD_RANDN_FIELDS)

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
