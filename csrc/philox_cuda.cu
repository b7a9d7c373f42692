#include "launch.cuh"
#include "philox.h"
#include "random.h"

namespace rsd {
namespace {

__global__ void __launch_bounds__(kThreads) philox_kernel(PhiloxArgs a) {  // a thread a block of words
  const int64_t i = int64_t(blockIdx.x) * kThreads + threadIdx.x;
  if (i >= a.count) return;
  const Words w = philox(a.seed, uint32_t(a.element[i]), uint32_t(a.sample[i]), uint32_t(a.step[i]), a.stream);
  reinterpret_cast<uint4*>(a.out)[i] = make_uint4(w.w0, w.w1, w.w2, w.w3);
}

__global__ void __launch_bounds__(kThreads) randn_kernel(RandnArgs a, uint32_t tiles) {  // a thread a block of normals
  const uint32_t b = blockIdx.x / tiles;
  const int64_t block = int64_t(blockIdx.x % tiles) * blockDim.x + threadIdx.x;
  const int64_t left = a.inner - 4 * block;
  if (left <= 0) return;
  const uint32_t sample = uint32_t(a.sample[b * a.sample_stride]), step = uint32_t(a.step[b * a.step_stride]);
  const Normals n = normals(philox(a.seed, uint32_t(block), sample, step, a.stream));
  float* out = a.out + b * a.inner + 4 * block;
  if (a.inner % 4 == 0) {
    // An assignment would be merged with those below, and split into four.
    __stcg(reinterpret_cast<float4*>(out), make_float4(n.n0, n.n1, n.n2, n.n3));
    return;
  }
  out[0] = n.n0;
  if (left > 1) out[1] = n.n1;
  if (left > 2) out[2] = n.n2;
  if (left > 3) out[3] = n.n3;
}

unsigned grid(int64_t blocks) {
  if (blocks > INT32_MAX) throw std::invalid_argument("too many elements for one launch");
  return unsigned(blocks);
}

}  // namespace

void philox_cuda(const PhiloxArgs& a, int device, void* stream) {
  if (a.count == 0) return;
  DeviceGuard guard(device);
  philox_kernel<<<grid((a.count + kThreads - 1) / kThreads), kThreads, 0, static_cast<cudaStream_t>(stream)>>>(a);
  RSD_CUDA_CHECK(cudaGetLastError(), "philox");
}

void randn_cuda(const RandnArgs& a, int device, void* stream) {
  if (a.batch == 0 || a.inner == 0) return;
  DeviceGuard guard(device);
  const int64_t threads = a.blocks() < kThreads ? (a.blocks() + 31) / 32 * 32 : kThreads;
  const int64_t tiles = (a.blocks() + threads - 1) / threads;  // of a sample
  const unsigned size = grid(a.batch * tiles);
  randn_kernel<<<size, unsigned(threads), 0, static_cast<cudaStream_t>(stream)>>>(a, uint32_t(tiles));
  RSD_CUDA_CHECK(cudaGetLastError(), "randn");
}

}  // namespace rsd
