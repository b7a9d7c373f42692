// Downsampling on the GPU: one kernel for every op that downsamples; rsd_fast/ops/downsample.py has the mathematics.
#pragma once
#include "images.cuh"
#include "launch.cuh"

namespace rsd {

// A thread sums up four neighbouring blocks of an image, down and then across; images.cuh has the functors. `images`
// are the large ones, `threads` as many as there are fours of blocks.
template <class A, class Load, class Store>
__global__ void __launch_bounds__(kThreads, sizeof(A) == 8 ? 3 : 4)
    downsample_kernel(Images images, int factor, int64_t threads, Load load, Store store) {
  const int64_t height = blocks_of(images.height, factor), width = blocks_of(images.width, factor);
  const int64_t across = (width + 3) / 4;
  for (int64_t i = int64_t(blockIdx.x) * kThreads + threadIdx.x; i < threads; i += int64_t(gridDim.x) * kThreads) {
    const int64_t column = i % across * 4, row = i / across % height, plane = i / across / height;
    const int64_t b = plane / images.channels, c = plane % images.channels;
    const int rows = block_size(row, images.height, factor), n = int(width - column < 4 ? width - column : 4);
    A means[4] = {};
#pragma unroll
    for (int j = 0; j < 4; ++j) {
      if (j >= n) break;
      const int columns = block_size(column + j, images.width, factor);
      A total = 0;
      for (int x = 0; x < columns; ++x) {
        A sum = load(b, c, row * factor, (column + j) * factor + x);
        for (int y = 1; y < rows; ++y) sum = sum + load(b, c, row * factor + y, (column + j) * factor + x);
        total = total + sum;
      }
      means[j] = total / A(rows * columns);
    }
    store(b, c, row, column, means, n);
  }
}

template <class A, class Load, class Store>
void launch_downsample(int64_t batch, const Images& images, int factor, const Load& load, const Store& store,
                       int device, cudaStream_t stream) {
  const int64_t height = blocks_of(images.height, factor), across = (blocks_of(images.width, factor) + 3) / 4;
  const int64_t threads = batch * images.channels * height * across;
  if (threads == 0) return;
  const unsigned grid = grid_size((threads + kThreads - 1) / kThreads, device);
  downsample_kernel<A><<<grid, kThreads, 0, stream>>>(images, factor, threads, load, store);
}

}  // namespace rsd
