#include "edm.h"
#include "perturb_backward.h"

namespace rsd::RSD_ISA {

void perturb_backward(const PerturbBackwardArgs& a, int64_t begin, int64_t end) {
  with_types(a.raw_dtype, a.dtype, [&](auto raw, auto image) {
    using T = decltype(raw);
    using A = decltype(image);
    const int64_t chunks = chunks_of(a.inner);
    for (int64_t i = begin; i < end; ++i) {
      const int64_t b = i / chunks, first = i % chunks * kChunk, left = a.inner - first;
      const int64_t n = left < kChunk ? left : kChunk, at = b * a.inner + first;
      const A c_in = edm(static_cast<const A*>(a.sigma)[b * a.sigma_stride], A(a.sigma_data)).c_in;
      const A* __restrict grad_x_t = static_cast<const A*>(a.grad_x_t) + at;
      const T* __restrict grad_net_input = static_cast<const T*>(a.grad_net_input) + at;
      A* __restrict grad_y = static_cast<A*>(a.grad_y) + at;
      for (int64_t j = 0; j < n; ++j) grad_y[j] = grad_x_t[j] + c_in * widen(grad_net_input[j]);
    }
  });
}

}  // namespace rsd::RSD_ISA
