#include "denoise.h"
#include "edm.h"

namespace rsd::RSD_ISA {

void denoise(const DenoiseArgs& a, int64_t begin, int64_t end) {
  with_types(a.raw_dtype, a.dtype, [&](auto raw, auto image) {
    using T = decltype(raw);
    using A = decltype(image);
    for (int64_t i = begin; i < end; ++i) {
      const Chunk c = chunk_of(a.inner, i);
      const Edm<A> level = edm(static_cast<const A*>(a.sigma)[c.b * a.sigma_stride], A(a.sigma_data));
      const T* __restrict F = static_cast<const T*>(a.F) + c.at;
      const A* __restrict x_t = static_cast<const A*>(a.x_t) + c.at;
      A* __restrict D = static_cast<A*>(a.D) + c.at;
      for (int j = 0; j < c.n; ++j) D[j] = level.c_skip * x_t[j] + level.c_out * widen(F[j]);
    }
  });
}

void denoise_backward(const DenoiseBackwardArgs& a, int64_t begin, int64_t end) {
  with_types(a.raw_dtype, a.dtype, [&](auto raw, auto image) {
    using T = decltype(raw);
    using A = decltype(image);
    for (int64_t i = begin; i < end; ++i) {
      const Chunk c = chunk_of(a.inner, i);
      const Edm<A> level = edm(static_cast<const A*>(a.sigma)[c.b * a.sigma_stride], A(a.sigma_data));
      const A* __restrict grad = static_cast<const A*>(a.grad) + c.at;
      if (a.grad_F != nullptr) {
        T* __restrict grad_F = static_cast<T*>(a.grad_F) + c.at;
        for (int j = 0; j < c.n; ++j) grad_F[j] = narrow<T>(level.c_out * grad[j]);
      }
      if (a.grad_x_t != nullptr) {
        A* __restrict grad_x_t = static_cast<A*>(a.grad_x_t) + c.at;
        for (int j = 0; j < c.n; ++j) grad_x_t[j] = level.c_skip * grad[j];
      }
    }
  });
}

}  // namespace rsd::RSD_ISA
