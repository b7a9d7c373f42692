#include "edm.h"
#include "launch.cuh"
#include "perturb_backward.h"
#include "vector.cuh"

namespace rsd {
namespace {

template <class T, class A, bool kPacked>
__global__ void __launch_bounds__(kThreads) perturb_backward_kernel(PerturbBackwardArgs a, int64_t tasks) {
  for (int64_t task = blockIdx.x; task < tasks; task += gridDim.x) {
    const Chunk chunk = chunk_of(a.inner, task);
    const A c_in = edm(static_cast<const A*>(a.sigma)[chunk.b * a.sigma_stride], A(a.sigma_data)).c_in;
    const A* grad_x_t = static_cast<const A*>(a.grad_x_t) + chunk.at;
    const T* grad_net_input = static_cast<const T*>(a.grad_net_input) + chunk.at;
    A* grad_y = static_cast<A*>(a.grad_y) + chunk.at;
    if (kPacked) {
#pragma unroll 2  // four, the compiler's choice, spill
      for (int i = threadIdx.x * kPack; i < chunk.n; i += kThreads * kPack) {
        const Pack<A> x = load_pack(grad_x_t + i);
        const Pack<T> net = load_pack(grad_net_input + i);
        Pack<A> out;
#pragma unroll
        for (int j = 0; j < kPack; ++j) out.v[j] = x.v[j] + c_in * widen(net.v[j]);
        store_pack(grad_y + i, out);
      }
    } else {
      for (int i = threadIdx.x; i < chunk.n; i += kThreads) grad_y[i] = grad_x_t[i] + c_in * widen(grad_net_input[i]);
    }
  }
}

}  // namespace

void perturb_backward_cuda(const PerturbBackwardArgs& a, int device, void* stream) {
  const auto select = [&](auto raw, auto image) {
    using T = decltype(raw);
    using A = decltype(image);
    return packs<A>(a.inner, a.grad_x_t, a.grad_net_input, a.grad_y) ? perturb_backward_kernel<T, A, sizeof(A) == 4>
                                                                     : perturb_backward_kernel<T, A, false>;
  };
  launch_chunks(a, device, stream, select);
  RSD_CUDA_CHECK(cudaGetLastError(), "perturb_backward");
}

}  // namespace rsd
