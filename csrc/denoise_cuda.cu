#include "denoise.h"
#include "edm.h"
#include "launch.cuh"
#include "vector.cuh"

namespace rsd {
namespace {

// A task is a chunk of a sample; where kPacked, a thread takes packs of it, else single elements.
template <class T, class A, bool kPacked>
__global__ void __launch_bounds__(kThreads) denoise_kernel(DenoiseArgs a, int64_t tasks) {
  for (int64_t task = blockIdx.x; task < tasks; task += gridDim.x) {
    const Chunk chunk = chunk_of(a.inner, task);
    const Edm<A> c = edm(static_cast<const A*>(a.sigma)[chunk.b * a.sigma_stride], A(a.sigma_data));
    const T* F = static_cast<const T*>(a.F) + chunk.at;
    const A* x_t = static_cast<const A*>(a.x_t) + chunk.at;
    A* D = static_cast<A*>(a.D) + chunk.at;
    if (kPacked) {
#pragma unroll 2  // four, the compiler's choice, spill
      for (int i = threadIdx.x * kPack; i < chunk.n; i += kThreads * kPack) {
        const Pack<T> f = load_pack(F + i);
        const Pack<A> x = load_pack(x_t + i);
        Pack<A> out;
#pragma unroll
        for (int j = 0; j < kPack; ++j) out.v[j] = c.c_skip * x.v[j] + c.c_out * widen(f.v[j]);
        store_pack(D + i, out);
      }
    } else {
      for (int i = threadIdx.x; i < chunk.n; i += kThreads) D[i] = c.c_skip * x_t[i] + c.c_out * widen(F[i]);
    }
  }
}

template <class T, class A, bool kPacked>
__global__ void __launch_bounds__(kThreads) denoise_backward_kernel(DenoiseBackwardArgs a, int64_t tasks) {
  for (int64_t task = blockIdx.x; task < tasks; task += gridDim.x) {
    const Chunk chunk = chunk_of(a.inner, task);
    const Edm<A> c = edm(static_cast<const A*>(a.sigma)[chunk.b * a.sigma_stride], A(a.sigma_data));
    const A* grad = static_cast<const A*>(a.grad) + chunk.at;
    T* grad_F = static_cast<T*>(a.grad_F) + chunk.at;
    A* grad_x_t = static_cast<A*>(a.grad_x_t) + chunk.at;
    if (kPacked) {
#pragma unroll 2  // four, the compiler's choice, spill
      for (int i = threadIdx.x * kPack; i < chunk.n; i += kThreads * kPack) {
        const Pack<A> g = load_pack(grad + i);
        if (a.grad_F != nullptr) {
          Pack<T> out;
#pragma unroll
          for (int j = 0; j < kPack; ++j) out.v[j] = narrow<T>(c.c_out * g.v[j]);
          store_pack(grad_F + i, out);
        }
        if (a.grad_x_t != nullptr) {
          Pack<A> out;
#pragma unroll
          for (int j = 0; j < kPack; ++j) out.v[j] = c.c_skip * g.v[j];
          store_pack(grad_x_t + i, out);
        }
      }
    } else {
      for (int i = threadIdx.x; i < chunk.n; i += kThreads) {
        if (a.grad_F != nullptr) grad_F[i] = narrow<T>(c.c_out * grad[i]);
        if (a.grad_x_t != nullptr) grad_x_t[i] = c.c_skip * grad[i];
      }
    }
  }
}

}  // namespace

void denoise_cuda(const DenoiseArgs& a, int device, void* stream) {
  const auto select = [&](auto raw, auto image) {
    using T = decltype(raw);
    using A = decltype(image);
    return packs<A>(a.inner, a.F, a.x_t, a.D) ? denoise_kernel<T, A, sizeof(A) == 4> : denoise_kernel<T, A, false>;
  };
  launch_chunks(a, device, stream, select);
  RSD_CUDA_CHECK(cudaGetLastError(), "denoise");
}

void denoise_backward_cuda(const DenoiseBackwardArgs& a, int device, void* stream) {
  const auto select = [&](auto raw, auto image) {
    using T = decltype(raw);
    using A = decltype(image);
    return packs<A>(a.inner, a.grad, a.grad_F, a.grad_x_t) ? denoise_backward_kernel<T, A, sizeof(A) == 4>
                                                           : denoise_backward_kernel<T, A, false>;
  };
  launch_chunks(a, device, stream, select);
  RSD_CUDA_CHECK(cudaGetLastError(), "denoise_backward");
}

}  // namespace rsd
