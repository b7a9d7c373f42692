#include "denoise.h"
#include "edm.h"
#include "launch.cuh"
#include "vector.cuh"

namespace rsd {
namespace {

// A task is a chunk of a sample; where kPacked, a thread takes packs of it, else single elements.
template <class T, class A, bool kPacked>
__global__ void __launch_bounds__(kThreads) denoise_kernel(DenoiseArgs a, int64_t tasks) {
  const int64_t chunks = chunks_of(a.inner);
  for (int64_t task = blockIdx.x; task < tasks; task += gridDim.x) {
    const int64_t b = task / chunks, first = task % chunks * kChunk;
    const int n = int(min(kChunk, a.inner - first));
    const Edm<A> c = edm(static_cast<const A*>(a.sigma)[b * a.sigma_stride], A(a.sigma_data));
    const T* F = static_cast<const T*>(a.F) + b * a.inner + first;
    const A* x_t = static_cast<const A*>(a.x_t) + b * a.inner + first;
    A* D = static_cast<A*>(a.D) + b * a.inner + first;
    if (kPacked) {
#pragma unroll 2  // four, the compiler's choice, spill
      for (int i = threadIdx.x * kPack; i < n; i += kThreads * kPack) {
        const Pack<T> f = load_pack(F + i);
        const Pack<A> x = load_pack(x_t + i);
        Pack<A> out;
#pragma unroll
        for (int j = 0; j < kPack; ++j) out.v[j] = c.c_skip * x.v[j] + c.c_out * widen(f.v[j]);
        store_pack(D + i, out);
      }
    } else {
      for (int i = threadIdx.x; i < n; i += kThreads) D[i] = c.c_skip * x_t[i] + c.c_out * widen(F[i]);
    }
  }
}

template <class T, class A, bool kPacked>
__global__ void __launch_bounds__(kThreads) denoise_backward_kernel(DenoiseBackwardArgs a, int64_t tasks) {
  const int64_t chunks = chunks_of(a.inner);
  for (int64_t task = blockIdx.x; task < tasks; task += gridDim.x) {
    const int64_t b = task / chunks, first = task % chunks * kChunk, at = b * a.inner + first;
    const int n = int(min(kChunk, a.inner - first));
    const Edm<A> c = edm(static_cast<const A*>(a.sigma)[b * a.sigma_stride], A(a.sigma_data));
    const A* grad = static_cast<const A*>(a.grad) + at;
    T* grad_F = static_cast<T*>(a.grad_F) + at;
    A* grad_x_t = static_cast<A*>(a.grad_x_t) + at;
    if (kPacked) {
#pragma unroll 2  // four, the compiler's choice, spill
      for (int i = threadIdx.x * kPack; i < n; i += kThreads * kPack) {
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
      for (int i = threadIdx.x; i < n; i += kThreads) {
        if (a.grad_F != nullptr) grad_F[i] = narrow<T>(c.c_out * grad[i]);
        if (a.grad_x_t != nullptr) grad_x_t[i] = c.c_skip * grad[i];
      }
    }
  }
}

}  // namespace

void denoise_cuda(const DenoiseArgs& a, int device, void* stream) {
  const int64_t tasks = a.work();
  if (tasks == 0) return;
  check_types(a.raw_dtype, a.dtype);
  DeviceGuard guard(device);
  with_types(a.raw_dtype, a.dtype, [&](auto raw, auto image) {
    using T = decltype(raw);
    using A = decltype(image);
    const auto kernel =
        packs<A>(a.inner, a.F, a.x_t, a.D) ? denoise_kernel<T, A, sizeof(A) == 4> : denoise_kernel<T, A, false>;
    kernel<<<grid_size(tasks, device), kThreads, 0, static_cast<cudaStream_t>(stream)>>>(a, tasks);
  });
  RSD_CUDA_CHECK(cudaGetLastError(), "denoise");
}

void denoise_backward_cuda(const DenoiseBackwardArgs& a, int device, void* stream) {
  const int64_t tasks = a.work();
  if (tasks == 0) return;
  check_types(a.raw_dtype, a.dtype);
  DeviceGuard guard(device);
  with_types(a.raw_dtype, a.dtype, [&](auto raw, auto image) {
    using T = decltype(raw);
    using A = decltype(image);
    const auto kernel = packs<A>(a.inner, a.grad, a.grad_F, a.grad_x_t) ? denoise_backward_kernel<T, A, sizeof(A) == 4>
                                                                        : denoise_backward_kernel<T, A, false>;
    kernel<<<grid_size(tasks, device), kThreads, 0, static_cast<cudaStream_t>(stream)>>>(a, tasks);
  });
  RSD_CUDA_CHECK(cudaGetLastError(), "denoise_backward");
}

}  // namespace rsd
