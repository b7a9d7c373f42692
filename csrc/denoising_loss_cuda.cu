#include "denoising_loss_math.h"
#include "launch.cuh"
#include "reduce.cuh"
#include "vector.cuh"

namespace rsd {
namespace {

// A block sums a chunk of a sample; where a sample is one chunk it writes the loss, else `finish_kernel` does.
template <class T, class A, bool kPacked>
__global__ void __launch_bounds__(kThreads) denoising_loss_kernel(DenoisingLossArgs a, int64_t tasks) {
  const int64_t chunks = chunks_of(a.inner);
  for (int64_t task = blockIdx.x; task < tasks; task += gridDim.x) {
    const int64_t b = task / chunks, first = task % chunks * kChunk, at = b * a.inner + first;
    const int n = int(min(kChunk, a.inner - first));
    const DenoisingLoss<A> of = denoising_loss_of<A>(a, b);
    const T* F = static_cast<const T*>(a.F) + at;
    const A *x_t = static_cast<const A*>(a.x_t) + at, *y = static_cast<const A*>(a.y) + at;
    A sum = 0;
    if (kPacked) {
      for (int i = threadIdx.x * kPack; i < n; i += kThreads * kPack) {
        const Pack<T> f = load_pack(F + i);
        const Pack<A> x = load_pack(x_t + i), z = load_pack(y + i), mask = mask_pack<A>(a.mask, b, first + i);
#pragma unroll
        for (int j = 0; j < kPack; ++j) {
          const A error = of.error(widen(f.v[j]), x.v[j], z.v[j]) * mask.v[j];
          sum += error * error;
        }
      }
    } else {
      for (int i = threadIdx.x; i < n; i += kThreads) {
        A error = of.error(widen(F[i]), x_t[i], y[i]);
        if (a.mask.data != nullptr) error *= mask_at<A>(a.mask, a.mask.offset(b, first + i));
        sum += error * error;
      }
    }
    sum = block_sum(sum);
    if (threadIdx.x == 0) {
      if (chunks == 1)
        static_cast<A*>(a.loss)[b] = of.weight * sum;
      else
        static_cast<A*>(a.partial)[task] = sum;
    }
  }
}

template <class A>
__global__ void __launch_bounds__(kThreads) finish_kernel(DenoisingLossArgs a) {  // a thread a sample
  const int64_t b = int64_t(blockIdx.x) * kThreads + threadIdx.x, chunks = chunks_of(a.inner);
  if (b >= a.batch) return;
  const A sum = chunk_sum(static_cast<const A*>(a.partial) + b * chunks, chunks);
  static_cast<A*>(a.loss)[b] = denoising_loss_of<A>(a, b).weight * sum;
}

template <class T, class A, bool kPacked>
__global__ void __launch_bounds__(kThreads) denoising_loss_backward_kernel(DenoisingLossArgs a, int64_t tasks) {
  const int64_t chunks = chunks_of(a.inner);
  for (int64_t task = blockIdx.x; task < tasks; task += gridDim.x) {
    const int64_t b = task / chunks, first = task % chunks * kChunk, at = b * a.inner + first;
    const int n = int(min(kChunk, a.inner - first));
    const DenoisingLoss<A> of = denoising_loss_of<A>(a, b);
    const A slope = static_cast<const A*>(a.grad)[b * a.grad_stride] * of.slope();
    const T* F = static_cast<const T*>(a.F) + at;
    const A *x_t = static_cast<const A*>(a.x_t) + at, *y = static_cast<const A*>(a.y) + at;
    T* grad_F = static_cast<T*>(a.grad_F) + at;
    if (kPacked) {
      for (int i = threadIdx.x * kPack; i < n; i += kThreads * kPack) {
        const Pack<T> f = load_pack(F + i);
        const Pack<A> x = load_pack(x_t + i), z = load_pack(y + i), mask = mask_pack<A>(a.mask, b, first + i);
        Pack<T> out;
#pragma unroll
        for (int j = 0; j < kPack; ++j) {
          const A error = of.error(widen(f.v[j]), x.v[j], z.v[j]);
          out.v[j] = narrow<T>(slope * mask.v[j] * (mask.v[j] * error));
        }
        store_pack(grad_F + i, out);
      }
    } else {
      for (int i = threadIdx.x; i < n; i += kThreads) {
        const A mask = a.mask.data == nullptr ? A(1) : mask_at<A>(a.mask, a.mask.offset(b, first + i));
        grad_F[i] = narrow<T>(slope * mask * (mask * of.error(widen(F[i]), x_t[i], y[i])));
      }
    }
  }
}

}  // namespace

void denoising_loss_cuda(const DenoisingLossArgs& a, int device, void* stream) {
  if (a.batch == 0) return;
  check_types(a.raw_dtype, a.dtype);
  DeviceGuard guard(device);
  const auto queue = static_cast<cudaStream_t>(stream);
  const int64_t chunks = chunks_of(a.inner), tasks = a.batch * chunks;
  with_types(a.raw_dtype, a.dtype, [&](auto raw, auto image) {
    using T = decltype(raw);
    using A = decltype(image);
    const auto kernel = packs<A>(a.inner, a.F, a.x_t, a.y) ? denoising_loss_kernel<T, A, sizeof(A) == 4>
                                                           : denoising_loss_kernel<T, A, false>;
    if (tasks > 0) kernel<<<grid_size(tasks, device), kThreads, 0, queue>>>(a, tasks);
    if (chunks != 1) finish_kernel<A><<<unsigned((a.batch + kThreads - 1) / kThreads), kThreads, 0, queue>>>(a);
  });
  RSD_CUDA_CHECK(cudaGetLastError(), "denoising_loss");
}

void denoising_loss_backward_cuda(const DenoisingLossArgs& a, int device, void* stream) {
  const int64_t tasks = a.batch * chunks_of(a.inner);
  if (tasks == 0) return;
  check_types(a.raw_dtype, a.dtype);
  DeviceGuard guard(device);
  with_types(a.raw_dtype, a.dtype, [&](auto raw, auto image) {
    using T = decltype(raw);
    using A = decltype(image);
    const auto kernel = packs<A>(a.inner, a.F, a.x_t, a.y, a.grad_F)
                            ? denoising_loss_backward_kernel<T, A, sizeof(A) == 4>
                            : denoising_loss_backward_kernel<T, A, false>;
    kernel<<<grid_size(tasks, device), kThreads, 0, static_cast<cudaStream_t>(stream)>>>(a, tasks);
  });
  RSD_CUDA_CHECK(cudaGetLastError(), "denoising_loss_backward");
}

}  // namespace rsd
