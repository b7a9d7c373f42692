// Random words and normals of many consecutive blocks at a time, for the CPU kernels.
//
// The rounds are in intrinsics: compilers do not find the 32 x 32 -> 64 bit product in a loop over scalars, which
// costs a factor of 2.5. A word sits in the low half of a 64-bit lane; what gathers in the high half, no product reads.
#pragma once
#include "random.h"

#if defined(__AVX512F__) || defined(__AVX2__)
#include <immintrin.h>
#endif

namespace rsd {

constexpr int kTile = 64;  // blocks: few enough for L1, enough to vectorise

// words[k][j]: word k of block first + j, for j < count at the least.
RSD_HD void words_tile(uint32_t (&words)[4][kTile], uint64_t seed, uint32_t first, uint32_t sample, uint32_t step,
                       uint32_t stream, int64_t count = kTile) {
#if defined(__AVX512F__)
  using Lanes = __m512i;
  constexpr int kLanes = 8;
  const auto fill = [](uint32_t word) { return _mm512_set1_epi64(word); };
  const auto multiply = [](Lanes x, Lanes y) { return _mm512_mul_epu32(x, y); };
  const auto high = [](Lanes x) { return _mm512_srli_epi64(x, 32); };
  const auto xor3 = [](Lanes x, Lanes y, Lanes z) { return _mm512_ternarylogic_epi64(x, y, z, 0x96); };
  const auto add = [](Lanes x, Lanes y) { return _mm512_add_epi64(x, y); };
  const auto store = [](uint32_t* to, Lanes x) {
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(to), _mm512_cvtepi64_epi32(x));
  };
  const Lanes iota = _mm512_setr_epi64(0, 1, 2, 3, 4, 5, 6, 7);
#elif defined(__AVX2__)
  using Lanes = __m256i;
  constexpr int kLanes = 4;
  const auto fill = [](uint32_t word) { return _mm256_set1_epi64x(word); };
  const auto multiply = [](Lanes x, Lanes y) { return _mm256_mul_epu32(x, y); };
  const auto high = [](Lanes x) { return _mm256_srli_epi64(x, 32); };
  const auto xor3 = [](Lanes x, Lanes y, Lanes z) { return _mm256_xor_si256(_mm256_xor_si256(x, y), z); };
  const auto add = [](Lanes x, Lanes y) { return _mm256_add_epi64(x, y); };
  const auto store = [](uint32_t* to, Lanes x) {
    const Lanes even = _mm256_permutevar8x32_epi32(x, _mm256_setr_epi32(0, 2, 4, 6, 0, 2, 4, 6));
    _mm_storeu_si128(reinterpret_cast<__m128i*>(to), _mm256_castsi256_si128(even));
  };
  const Lanes iota = _mm256_setr_epi64x(0, 1, 2, 3);
#endif
#if defined(__AVX512F__) || defined(__AVX2__)
  const Lanes multiplier0 = fill(0xD2511F53u), multiplier1 = fill(0xCD9E8D57u);
  for (int j = 0; j < count; j += 2 * kLanes) {  // two at a time hide the products' latency
    Lanes c0[2], c1[2], c2[2], c3[2];
    for (int h = 0; h < 2; ++h) {
      c0[h] = add(fill(first + uint32_t(j + h * kLanes)), iota);
      c1[h] = fill(sample), c2[h] = fill(step), c3[h] = fill(stream);
    }
    uint32_t k0 = uint32_t(seed), k1 = uint32_t(seed >> 32);
    for (int round = 0; round < 10; ++round) {
      for (int h = 0; h < 2; ++h) {
        const Lanes p0 = multiply(c0[h], multiplier0), p1 = multiply(c2[h], multiplier1);
        c0[h] = xor3(high(p1), c1[h], fill(k0));
        c2[h] = xor3(high(p0), c3[h], fill(k1));
        c1[h] = p1;
        c3[h] = p0;
      }
      k0 += 0x9E3779B9u;
      k1 += 0xBB67AE85u;
    }
    for (int h = 0; h < 2; ++h) {
      const int at = j + h * kLanes;
      store(words[0] + at, c0[h]), store(words[1] + at, c1[h]), store(words[2] + at, c2[h]);
      store(words[3] + at, c3[h]);
    }
  }
#else
  for (int j = 0; j < (count + 7) / 8 * 8; ++j) {
    const Words w = philox(seed, first + uint32_t(j), sample, step, stream);
    words[0][j] = w.w0, words[1][j] = w.w1, words[2][j] = w.w2, words[3][j] = w.w3;
  }
#endif
}

// out[4 j + k]: normal k of block first + j, for j < count at the least.
RSD_HD void normals_tile(float (&out)[4 * kTile], uint64_t seed, uint32_t first, uint32_t sample, uint32_t step,
                         uint32_t stream, int64_t count = kTile) {
  alignas(64) uint32_t words[4][kTile];
  alignas(64) float normal[4][kTile];
  words_tile(words, seed, first, sample, step, stream, count);
  const int64_t lanes = (count + 7) / 8 * 8;
  for (int k = 0; k < 4; k += 2) {
    for (int64_t j = 0; j < lanes; ++j) {
      const float r = radius(unit(words[k][j]));
      const CosSin turn = cos_sin(unit(words[k + 1][j]));
      normal[k][j] = r * turn.cos;
      normal[k + 1][j] = r * turn.sin;
    }
  }
  for (int64_t j = 0; j < lanes; ++j) {
    for (int k = 0; k < 4; ++k) out[4 * j + k] = normal[k][j];
  }
}

}  // namespace rsd
