// Sums over a warp, a block and a sample's chunks. Each is a tree of one shape: results repeat.
#pragma once
#include "launch.cuh"

namespace rsd {

template <class A>
__device__ __forceinline__ A warp_sum(A value) {
#pragma unroll
  for (int offset = 16; offset > 0; offset /= 2) value += __shfl_xor_sync(0xFFFFFFFFu, value, offset);
  return value;
}

// In thread 0. Every thread of a block of kThreads must call it.
template <class A>
__device__ __forceinline__ A block_sum(A value) {
  __shared__ A sums[kThreads / 32];
  value = warp_sum(value);
  __syncthreads();  // the last call's readers are done
  if (threadIdx.x % 32 == 0) sums[threadIdx.x / 32] = value;
  __syncthreads();
  if (threadIdx.x < 32) value = warp_sum(threadIdx.x < kThreads / 32 ? sums[threadIdx.x] : A(0));
  return value;
}

// The sums of a sample's chunks, in order, by one thread: there are inner / kChunk of them.
template <class A>
__device__ __forceinline__ A chunk_sum(const A* partial, int64_t chunks, int64_t stride = 1) {
  A sum = 0;
  for (int64_t i = 0; i < chunks; ++i) sum += partial[i * stride];
  return sum;
}

}  // namespace rsd
