#include "denoising_loss_math.h"
#include "launch.cuh"
#include "reduce.cuh"
#include "vector.cuh"

namespace rsd {
namespace {

// A block sums a chunk of a sample; where a sample is one chunk it writes the loss, else `finish_kernel` does.
template <class T, class A, bool kPacked>
__global__ void __launch_bounds__(kThreads) denoising_loss_kernel(DenoisingLossArgs a, int64_t tasks) {
  for (int64_t task = blockIdx.x; task < tasks; task += gridDim.x) {
    const Chunk chunk = chunk_of(a.inner, task);
    const DenoisingLoss<A> of = denoising_loss_of<A>(a, chunk.b);
    const T* F = static_cast<const T*>(a.F) + chunk.at;
    const A *x_t = static_cast<const A*>(a.x_t) + chunk.at, *y = static_cast<const A*>(a.y) + chunk.at;
    A sum = 0;
    if (kPacked) {
      for (int i = threadIdx.x * kPack; i < chunk.n; i += kThreads * kPack) {
        const Pack<T> f = load_pack(F + i);
        const Pack<A> x = load_pack(x_t + i), z = load_pack(y + i),
                      mask = mask_pack<A>(a.mask, chunk.b, chunk.first + i);
#pragma unroll
        for (int j = 0; j < kPack; ++j) {
          const A error = of.error(widen(f.v[j]), x.v[j], z.v[j]) * mask.v[j];
          sum += error * error;
        }
      }
    } else {
      for (int i = threadIdx.x; i < chunk.n; i += kThreads) {
        const A error = of.error(widen(F[i]), x_t[i], y[i]) * mask_of<A>(a.mask, chunk.b, chunk.first + i);
        sum += error * error;
      }
    }
    sum = block_sum(sum);
    if (threadIdx.x == 0) {
      if (chunks_of(a.inner) == 1)
        static_cast<A*>(a.loss)[chunk.b] = of.weight * sum;
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
  for (int64_t task = blockIdx.x; task < tasks; task += gridDim.x) {
    const Chunk chunk = chunk_of(a.inner, task);
    const DenoisingLoss<A> of = denoising_loss_of<A>(a, chunk.b);
    const A slope = static_cast<const A*>(a.grad)[chunk.b * a.grad_stride] * of.slope();
    const T* F = static_cast<const T*>(a.F) + chunk.at;
    const A *x_t = static_cast<const A*>(a.x_t) + chunk.at, *y = static_cast<const A*>(a.y) + chunk.at;
    T* grad_F = static_cast<T*>(a.grad_F) + chunk.at;
    if (kPacked) {
      for (int i = threadIdx.x * kPack; i < chunk.n; i += kThreads * kPack) {
        const Pack<T> f = load_pack(F + i);
        const Pack<A> x = load_pack(x_t + i), z = load_pack(y + i),
                      mask = mask_pack<A>(a.mask, chunk.b, chunk.first + i);
        Pack<T> out;
#pragma unroll
        for (int j = 0; j < kPack; ++j) {
          const A error = of.error(widen(f.v[j]), x.v[j], z.v[j]);
          out.v[j] = narrow<T>(slope * mask.v[j] * (mask.v[j] * error));
        }
        store_pack(grad_F + i, out);
      }
    } else {
      for (int i = threadIdx.x; i < chunk.n; i += kThreads) {
        const A mask = mask_of<A>(a.mask, chunk.b, chunk.first + i);
        grad_F[i] = narrow<T>(slope * mask * (mask * of.error(widen(F[i]), x_t[i], y[i])));
      }
    }
  }
}

}  // namespace

void denoising_loss_cuda(const DenoisingLossArgs& a, int device, void* stream) {
  const auto select = [&](auto raw, auto image) {
    using T = decltype(raw);
    using A = decltype(image);
    return packs<A>(a.inner, a.F, a.x_t, a.y) ? denoising_loss_kernel<T, A, sizeof(A) == 4>
                                              : denoising_loss_kernel<T, A, false>;
  };
  launch_chunks(a, device, stream, select, [](auto image) { return finish_kernel<decltype(image)>; });
  RSD_CUDA_CHECK(cudaGetLastError(), "denoising_loss");
}

void denoising_loss_backward_cuda(const DenoisingLossArgs& a, int device, void* stream) {
  const auto select = [&](auto raw, auto image) {
    using T = decltype(raw);
    using A = decltype(image);
    return packs<A>(a.inner, a.F, a.x_t, a.y, a.grad_F) ? denoising_loss_backward_kernel<T, A, sizeof(A) == 4>
                                                        : denoising_loss_backward_kernel<T, A, false>;
  };
  launch_chunks(a, device, stream, select);
  RSD_CUDA_CHECK(cudaGetLastError(), "denoising_loss_backward");
}

}  // namespace rsd
