#include "denoise.h"
#include "edm.h"

namespace rsd::RSD_ISA {

void denoise(const DenoiseArgs& a, int64_t begin, int64_t end) {
  with_types(a.raw_dtype, a.dtype, [&](auto raw, auto image) {
    using T = decltype(raw);
    using A = decltype(image);
    const int64_t chunks = chunks_of(a.inner);
    for (int64_t i = begin; i < end; ++i) {
      const int64_t b = i / chunks, first = i % chunks * kChunk, left = a.inner - first;
      const int64_t n = left < kChunk ? left : kChunk;
      const Edm<A> c = edm(static_cast<const A*>(a.sigma)[b * a.sigma_stride], A(a.sigma_data));
      const T* __restrict F = static_cast<const T*>(a.F) + b * a.inner + first;
      const A* __restrict x_t = static_cast<const A*>(a.x_t) + b * a.inner + first;
      A* __restrict D = static_cast<A*>(a.D) + b * a.inner + first;
      for (int64_t j = 0; j < n; ++j) D[j] = c.c_skip * x_t[j] + c.c_out * widen(F[j]);
    }
  });
}

void denoise_backward(const DenoiseBackwardArgs& a, int64_t begin, int64_t end) {
  with_types(a.raw_dtype, a.dtype, [&](auto raw, auto image) {
    using T = decltype(raw);
    using A = decltype(image);
    const int64_t chunks = chunks_of(a.inner);
    for (int64_t i = begin; i < end; ++i) {
      const int64_t b = i / chunks, first = i % chunks * kChunk, left = a.inner - first;
      const int64_t n = left < kChunk ? left : kChunk, at = b * a.inner + first;
      const Edm<A> c = edm(static_cast<const A*>(a.sigma)[b * a.sigma_stride], A(a.sigma_data));
      const A* __restrict grad = static_cast<const A*>(a.grad) + at;
      if (a.grad_F != nullptr) {
        T* __restrict grad_F = static_cast<T*>(a.grad_F) + at;
        for (int64_t j = 0; j < n; ++j) grad_F[j] = narrow<T>(c.c_out * grad[j]);
      }
      if (a.grad_x_t != nullptr) {
        A* __restrict grad_x_t = static_cast<A*>(a.grad_x_t) + at;
        for (int64_t j = 0; j < n; ++j) grad_x_t[j] = c.c_skip * grad[j];
      }
    }
  });
}

}  // namespace rsd::RSD_ISA
