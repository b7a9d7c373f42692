#include "launch.cuh"
#include "reduce.cuh"
#include "score_difference_loss_math.h"
#include "vector.cuh"

namespace rsd {
namespace {

// What a block reads of a chunk.
template <class T, class A>
struct Inputs : Chunk {
  const T *F_teacher, *F_fake;
  const A *u_t, *u;

  __device__ Inputs(const ScoreDifferenceLossArgs& a, int64_t task) : Chunk(chunk_of(a.inner, task)) {
    F_teacher = static_cast<const T*>(a.F_teacher) + at;
    F_fake = static_cast<const T*>(a.F_fake) + at;
    u_t = static_cast<const A*>(a.u_t) + at;
    u = static_cast<const A*>(a.u) + at;
  }
};

template <class A>
__device__ __forceinline__ void finish(const ScoreDifferenceLossArgs& a, int64_t b, A sum, A distance) {
  const A weight = score_weight(distance, a.inner);
  static_cast<A*>(a.weight)[b] = weight;
  static_cast<A*>(a.loss)[b] = weight * sum;
}

// A block sums a chunk; where a sample is one chunk it writes the loss, else `finish_kernel` does.
template <class T, class A, bool kPacked>
__global__ void __launch_bounds__(kThreads) score_difference_loss_kernel(ScoreDifferenceLossArgs a, int64_t tasks) {
  for (int64_t task = blockIdx.x; task < tasks; task += gridDim.x) {
    const Inputs<T, A> in(a, task);
    const ScoreDifferenceLoss<A> of = score_difference_loss_of<A>(a, in.b);
    A sum = 0, distance = 0;
    const auto add = [&](A mask, A F_teacher, A F_fake, A u_t, A u) {
      ScoreDifference<A> x = of.difference(F_teacher, F_fake, u_t, u);
      x.d *= mask;
      x.r *= mask;
      sum += of.term(x);
      distance += x.r < 0 ? -x.r : x.r;
    };
    if (kPacked) {
      for (int i = threadIdx.x * kPack; i < in.n; i += kThreads * kPack) {
        const Pack<T> f = load_pack(in.F_teacher + i), g = load_pack(in.F_fake + i);
        const Pack<A> x = load_pack(in.u_t + i), u = load_pack(in.u + i),
                      mask = mask_pack<A>(a.mask, in.b, in.first + i);
#pragma unroll
        for (int j = 0; j < kPack; ++j) add(mask.v[j], widen(f.v[j]), widen(g.v[j]), x.v[j], u.v[j]);
      }
    } else {
      for (int i = threadIdx.x; i < in.n; i += kThreads)
        add(mask_of<A>(a.mask, in.b, in.first + i), widen(in.F_teacher[i]), widen(in.F_fake[i]), in.u_t[i], in.u[i]);
    }
    sum = block_sum(sum);
    distance = block_sum(distance);
    if (threadIdx.x != 0) continue;
    if (chunks_of(a.inner) == 1) {
      finish(a, in.b, sum, distance);
    } else {
      A* partial = static_cast<A*>(a.partial) + 2 * task;
      partial[0] = sum;
      partial[1] = distance;
    }
  }
}

template <class A>
__global__ void __launch_bounds__(kThreads) finish_kernel(ScoreDifferenceLossArgs a) {  // a thread a sample
  const int64_t b = int64_t(blockIdx.x) * kThreads + threadIdx.x, chunks = chunks_of(a.inner);
  if (b >= a.batch) return;
  const A* partial = static_cast<const A*>(a.partial) + 2 * b * chunks;
  finish(a, b, chunk_sum(partial, chunks, 2), chunk_sum(partial + 1, chunks, 2));
}

template <class T, class A, bool kPacked>
__global__ void __launch_bounds__(kThreads)
    score_difference_loss_backward_kernel(ScoreDifferenceLossArgs a, int64_t tasks) {
  for (int64_t task = blockIdx.x; task < tasks; task += gridDim.x) {
    const Inputs<T, A> in(a, task);
    const ScoreDifferenceLoss<A> of = score_difference_loss_of<A>(a, in.b);
    const A scale = static_cast<const A*>(a.grad)[in.b * a.grad_stride] * static_cast<const A*>(a.weight)[in.b];
    const auto gradients = [&](A mask, A F_teacher, A F_fake, A u_t, A u) {
      ScoreDifference<A> x = of.difference(F_teacher, F_fake, u_t, u);
      x.d *= mask;
      x.r *= mask;
      return of.gradients(x, scale * mask);
    };
    T *grad_F_teacher = static_cast<T*>(a.grad_F_teacher) + in.at,
      *grad_F_fake = static_cast<T*>(a.grad_F_fake) + in.at;
    A *grad_u_t = static_cast<A*>(a.grad_u_t) + in.at, *grad_u = static_cast<A*>(a.grad_u) + in.at;
    if (kPacked) {
      for (int i = threadIdx.x * kPack; i < in.n; i += kThreads * kPack) {
        const Pack<T> f = load_pack(in.F_teacher + i), g = load_pack(in.F_fake + i);
        const Pack<A> x = load_pack(in.u_t + i), u = load_pack(in.u + i),
                      mask = mask_pack<A>(a.mask, in.b, in.first + i);
        Pack<T> df, dg;
        Pack<A> dx, du;
#pragma unroll
        for (int j = 0; j < kPack; ++j) {
          const ScoreGradients<A> d = gradients(mask.v[j], widen(f.v[j]), widen(g.v[j]), x.v[j], u.v[j]);
          df.v[j] = narrow<T>(d.F_teacher);
          dg.v[j] = narrow<T>(d.F_fake);
          dx.v[j] = d.u_t;
          du.v[j] = d.u;
        }
        if (a.grad_F_teacher != nullptr) store_pack(grad_F_teacher + i, df);
        if (a.grad_F_fake != nullptr) store_pack(grad_F_fake + i, dg);
        if (a.grad_u_t != nullptr) store_pack(grad_u_t + i, dx);
        if (a.grad_u != nullptr) store_pack(grad_u + i, du);
      }
    } else {
      for (int i = threadIdx.x; i < in.n; i += kThreads) {
        const ScoreGradients<A> d = gradients(mask_of<A>(a.mask, in.b, in.first + i), widen(in.F_teacher[i]),
                                              widen(in.F_fake[i]), in.u_t[i], in.u[i]);
        if (a.grad_F_teacher != nullptr) grad_F_teacher[i] = narrow<T>(d.F_teacher);
        if (a.grad_F_fake != nullptr) grad_F_fake[i] = narrow<T>(d.F_fake);
        if (a.grad_u_t != nullptr) grad_u_t[i] = d.u_t;
        if (a.grad_u != nullptr) grad_u[i] = d.u;
      }
    }
  }
}

}  // namespace

void score_difference_loss_cuda(const ScoreDifferenceLossArgs& a, int device, void* stream) {
  const auto select = [&](auto raw, auto image) {
    using T = decltype(raw);
    using A = decltype(image);
    return packs<A>(a.inner, a.F_teacher, a.F_fake, a.u_t, a.u) ? score_difference_loss_kernel<T, A, sizeof(A) == 4>
                                                                : score_difference_loss_kernel<T, A, false>;
  };
  launch_chunks(a, device, stream, select, [](auto image) { return finish_kernel<decltype(image)>; });
  RSD_CUDA_CHECK(cudaGetLastError(), "score_difference_loss");
}

void score_difference_loss_backward_cuda(const ScoreDifferenceLossArgs& a, int device, void* stream) {
  const auto select = [&](auto raw, auto image) {
    using T = decltype(raw);
    using A = decltype(image);
    return packs<A>(a.inner, a.F_teacher, a.F_fake, a.u_t, a.u, a.grad_F_teacher, a.grad_F_fake, a.grad_u_t, a.grad_u)
               ? score_difference_loss_backward_kernel<T, A, sizeof(A) == 4>
               : score_difference_loss_backward_kernel<T, A, false>;
  };
  launch_chunks(a, device, stream, select);
  RSD_CUDA_CHECK(cudaGetLastError(), "score_difference_loss_backward");
}

}  // namespace rsd
