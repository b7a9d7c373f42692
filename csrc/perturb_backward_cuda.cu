#include "edm.h"
#include "launch.cuh"
#include "perturb_backward.h"
#include "vector.cuh"

namespace rsd {
namespace {

template <class T, class A, bool kPacked>
__global__ void __launch_bounds__(kThreads) perturb_backward_kernel(PerturbBackwardArgs a, int64_t tasks) {
  const int64_t chunks = chunks_of(a.inner);
  for (int64_t task = blockIdx.x; task < tasks; task += gridDim.x) {
    const int64_t b = task / chunks, first = task % chunks * kChunk, at = b * a.inner + first;
    const int n = int(min(kChunk, a.inner - first));
    const A c_in = edm(static_cast<const A*>(a.sigma)[b * a.sigma_stride], A(a.sigma_data)).c_in;
    const A* grad_x_t = static_cast<const A*>(a.grad_x_t) + at;
    const T* grad_net_input = static_cast<const T*>(a.grad_net_input) + at;
    A* grad_y = static_cast<A*>(a.grad_y) + at;
    if (kPacked) {
#pragma unroll 2  // four, the compiler's choice, spill
      for (int i = threadIdx.x * kPack; i < n; i += kThreads * kPack) {
        const Pack<A> x = load_pack(grad_x_t + i);
        const Pack<T> net = load_pack(grad_net_input + i);
        Pack<A> out;
#pragma unroll
        for (int j = 0; j < kPack; ++j) out.v[j] = x.v[j] + c_in * widen(net.v[j]);
        store_pack(grad_y + i, out);
      }
    } else {
      for (int i = threadIdx.x; i < n; i += kThreads) grad_y[i] = grad_x_t[i] + c_in * widen(grad_net_input[i]);
    }
  }
}

}  // namespace

void perturb_backward_cuda(const PerturbBackwardArgs& a, int device, void* stream) {
  const int64_t tasks = a.work();
  if (tasks == 0) return;
  check_types(a.raw_dtype, a.dtype);
  DeviceGuard guard(device);
  with_types(a.raw_dtype, a.dtype, [&](auto raw, auto image) {
    using T = decltype(raw);
    using A = decltype(image);
    const auto kernel = packs<A>(a.inner, a.grad_x_t, a.grad_net_input, a.grad_y)
                            ? perturb_backward_kernel<T, A, sizeof(A) == 4>
                            : perturb_backward_kernel<T, A, false>;
    kernel<<<grid_size(tasks, device), kThreads, 0, static_cast<cudaStream_t>(stream)>>>(a, tasks);
  });
  RSD_CUDA_CHECK(cudaGetLastError(), "perturb_backward");
}

}  // namespace rsd
