#include "edm.h"
#include "perturb_backward.h"

namespace rsd::RSD_ISA {

void perturb_backward(const PerturbBackwardArgs& a, int64_t begin, int64_t end) {
  with_types(a.raw_dtype, a.dtype, [&](auto raw, auto image) {
    using T = decltype(raw);
    using A = decltype(image);
    for (int64_t i = begin; i < end; ++i) {
      const Chunk c = chunk_of(a.inner, i);
      const A c_in = edm(static_cast<const A*>(a.sigma)[c.b * a.sigma_stride], A(a.sigma_data)).c_in;
      const A* __restrict grad_x_t = static_cast<const A*>(a.grad_x_t) + c.at;
      const T* __restrict grad_net_input = static_cast<const T*>(a.grad_net_input) + c.at;
      A* __restrict grad_y = static_cast<A*>(a.grad_y) + c.at;
      for (int j = 0; j < c.n; ++j) grad_y[j] = grad_x_t[j] + c_in * widen(grad_net_input[j]);
    }
  });
}

}  // namespace rsd::RSD_ISA
