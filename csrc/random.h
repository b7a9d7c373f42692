// Philox-4x32-10 and Box and Muller's transform, host and device; rsd_fast/ops/philox.py has the mathematics.
//
// The normals equal those of the other backends bit for bit. For that nothing here calls a library function
// but the square root, and the build must neither contract a * b + c to a fused multiply-add nor reorder:
// -ffp-contract=off, -fmad=false, no -ffast-math (CMakeLists.txt says so for every file but group norm's).
#pragma once
#include <cmath>
#include <cstdint>

#include "dtype.h"

namespace rsd {

// What a random number is for: the counter's last word. The same as rsd_fast.ops.Stream.
enum Stream : uint32_t {
  OBSERVATION_NOISE = 0,
  OBSERVATION_MASK = 1,
  DIFFUSION_NOISE = 2,
  SIGMA = 3,
  FURTHER_MASK = 4,
  LATENT = 5,
  LABEL = 6,
  AUGMENTATION = 7,
  CONSISTENCY = 8,
};

struct Words {
  uint32_t w0, w1, w2, w3;
};

struct Normals {
  float n0, n1, n2, n3;
};

RSD_HD Words philox(uint64_t seed, uint32_t element, uint32_t sample, uint32_t step, uint32_t stream) {
  uint32_t c0 = element, c1 = sample, c2 = step, c3 = stream;
  uint32_t k0 = uint32_t(seed), k1 = uint32_t(seed >> 32);
  for (int round = 0; round < 10; ++round) {
    const uint64_t p0 = uint64_t(0xD2511F53u) * c0, p1 = uint64_t(0xCD9E8D57u) * c2;
    c0 = uint32_t(p1 >> 32) ^ c1 ^ k0;
    c1 = uint32_t(p1);
    c2 = uint32_t(p0 >> 32) ^ c3 ^ k1;
    c3 = uint32_t(p0);
    k0 += 0x9E3779B9u;
    k1 += 0xBB67AE85u;
  }
  return {c0, c1, c2, c3};
}

// (word + 1/2) 2^-32, in (0, 1]: the sum may round up.
RSD_HD float unit(uint32_t word) { return (float(word) + 0.5f) * 0x1p-32f; }

// The correctly rounded square root of 0, or of a number far from the ends of float's range. On a GPU this is the short
// path of sqrt.rn, without the call to its long one that every use would make room for: the same operations as on
// sm_75 to sm_121. It relies on the rsqrt of these chips; one merely within PTX's bound could leave a root an ulp off.
RSD_HD float root(float x) {
#ifdef __CUDA_ARCH__
  float reciprocal;
  asm("rsqrt.approx.ftz.f32 %0, %1;" : "=f"(reciprocal) : "f"(x));
  const float estimate = x * reciprocal;
  const float corrected = __fmaf_rn(__fmaf_rn(-estimate, estimate, x), 0.5f * reciprocal, estimate);
  return x > 0 ? corrected : 0;
#else
  return std::sqrt(x);
#endif
}

// sqrt(-2 ln u): u = 2^-n (1 + z) with 1 + z within [1/sqrt(2), sqrt(2)), and a polynomial for -2 ln(1 + z) /
// z.
RSD_HD float radius(float u) {
  int32_t bits = bit_cast<int32_t>(u);
  const int32_t n = -((bits - 0x3F3504F3) >> 23);
  bits += int32_t(uint32_t(n) << 23);
  const float z = bit_cast<float>(bits) - 1.0f;
  float p = z * 0.152421817f + -0.25809294f;
  p = p * z + 0.264869303f;
  p = p * z + -0.283636749f;
  p = p * z + 0.332180262f;
  p = p * z + -0.400039375f;
  p = p * z + 0.50003171f;
  p = p * z + -0.666666508f;
  p = p * z + 0.999999762f;
  p = p * z + -2.0f;
  return root(float(n) * 1.38629436f + z * p);  // of no negative number: n >= 0 and, where n = 0, z <= 0
}

struct CosSin {
  float cos, sin;
};

// cos and sin of 2 pi u: u = quarter / 4 + t with |t| <= 1/8.
RSD_HD CosSin cos_sin(float u) {
  const int32_t quarter = int32_t(u * 4.0f + 0.5f);
  const float t = u - float(quarter) * 0.25f;
  const float square = t * t;
  float c = square * 59.4217072f + -85.448761f;
  c = c * square + 64.9393692f;
  c = c * square + -19.7392082f;
  c = square * c + 1.0f;
  float s = square * -75.3935547f + 81.5923538f;
  s = s * square + -41.3416634f;
  s = s * square + 6.28318548f;
  s = t * s;
  const bool odd = quarter & 1;
  const float cos = odd ? s : c, sin = odd ? c : s;
  return {(quarter + 1) & 2 ? -cos : cos, quarter & 2 ? -sin : sin};
}

// The four normals of a block.
RSD_HD Normals normals(Words w) {
  const float r0 = radius(unit(w.w0)), r1 = radius(unit(w.w2));
  const CosSin a = cos_sin(unit(w.w1)), b = cos_sin(unit(w.w3));
  return {r0 * a.cos, r0 * a.sin, r1 * b.cos, r1 * b.sin};
}

}  // namespace rsd
