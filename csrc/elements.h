// How an elementwise kernel's work on [batch, inner] is cut: the same everywhere, so that results repeat.
#pragma once
#include <stdexcept>

#include "dtype.h"

// Before a loop: what it writes, it does not read through another pointer.
#if defined(__clang__)
#define RSD_NO_ALIAS _Pragma("clang loop vectorize(assume_safety)")
#elif defined(__GNUC__)
#define RSD_NO_ALIAS _Pragma("GCC ivdep")
#else
#define RSD_NO_ALIAS
#endif

namespace rsd {

constexpr int64_t kChunk = 16384;  // elements of one sample that are worked on together

RSD_HD int64_t chunks_of(int64_t inner) { return (inner + kChunk - 1) / kChunk; }

struct Chunk {
  int64_t b, first, at;  // the sample; its first element, in the sample and in all
  int n;
};

RSD_HD Chunk chunk_of(int64_t inner, int64_t index) {
  const int64_t chunks = chunks_of(inner), b = index / chunks, first = index % chunks * kChunk, left = inner - first;
  return {b, first, b * inner + first, int(left < kChunk ? left : kChunk)};
}

// Calls f(F{}, X{}) for the element types of a network's raw output and of the images beside it. The images are in
// the type that is computed with; ops/native/launch.py sees to that.
template <class Function>
void with_types(DType raw, DType images, const Function& f) {
  if (images == kFloat64 && raw == kFloat64) return f(double{}, double{});
  if (images == kFloat32 && raw == kFloat32) return f(float{}, float{});
  if (images == kFloat32 && raw == kBFloat16) return f(BFloat16{}, float{});
  if (images == kFloat32 && raw == kFloat16) return f(Float16{}, float{});
}

inline void check_types(DType raw, DType images) {
  bool known = false;
  with_types(raw, images, [&](auto, auto) { known = true; });
  if (!known) throw std::invalid_argument("no kernel for these dtypes");
}

}  // namespace rsd
