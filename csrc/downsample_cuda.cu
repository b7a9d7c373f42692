#include "downsample.h"
#include "downsample_tile.cuh"

namespace rsd {
namespace {

// A thread takes four neighbouring pixels of an image; `images` are the large ones, y the small ones.
template <class T, class Store>
__global__ void __launch_bounds__(kThreads)
    adjoint_kernel(Images images, int factor, int64_t threads, LoadImage<T> y, Store store) {
  const int64_t across = (images.width + 3) / 4;
  for (int64_t i = int64_t(blockIdx.x) * kThreads + threadIdx.x; i < threads; i += int64_t(gridDim.x) * kThreads) {
    const int64_t column = i % across * 4, row = i / across % images.height, plane = i / across / images.height;
    const int64_t b = plane / images.channels, c = plane % images.channels;
    const int64_t block = row / factor;
    const int rows = block_size(block, images.height, factor);
    const int n = int(images.width - column < 4 ? images.width - column : 4);
    Acc<T> shares[4] = {};
#pragma unroll
    for (int j = 0; j < 4; ++j) {
      if (j >= n) break;
      const int64_t at = (column + j) / factor;
      shares[j] = y(b, c, block, at) / Acc<T>(rows * block_size(at, images.width, factor));
    }
    store(b, c, row, column, shares, n);
  }
}

// Calls f(T{}, large, small, stream) on the device.
template <class Function>
void launch(const DownsampleArgs& a, int device, void* stream, const char* op, const Function& f) {
  check_image_type(a.dtype);
  DeviceGuard guard(device);
  const Images large{a.channels, a.height, a.width, a.channels_last};
  const Images small{a.channels, blocks_of(a.height, a.factor), blocks_of(a.width, a.factor), a.channels_last};
  with_dtype(a.dtype, [&](auto type) { f(type, large, small, static_cast<cudaStream_t>(stream)); });
  RSD_CUDA_CHECK(cudaGetLastError(), op);
}

}  // namespace

void downsample_cuda(const DownsampleArgs& a, int device, void* stream) {
  launch(a, device, stream, "downsample", [&](auto type, const Images& large, const Images& small, cudaStream_t on) {
    using T = decltype(type);
    launch_downsample<Acc<T>>(a.batch, large, a.factor, LoadImage<T>{static_cast<const T*>(a.x), large},
                              StoreImage<T>{static_cast<T*>(a.out), small}, device, on);
  });
}

void downsample_adjoint_cuda(const DownsampleArgs& a, int device, void* stream) {
  const int64_t threads = a.batch * a.channels * a.height * ((a.width + 3) / 4);
  if (threads == 0) return;
  const auto run = [&](auto type, const Images& large, const Images& small, cudaStream_t on) {
    using T = decltype(type);
    const unsigned grid = grid_size((threads + kThreads - 1) / kThreads, device);
    adjoint_kernel<<<grid, kThreads, 0, on>>>(large, a.factor, threads, LoadImage<T>{static_cast<const T*>(a.x), small},
                                              StoreImage<T>{static_cast<T*>(a.out), large});
  };
  launch(a, device, stream, "downsample_adjoint", run);
}

}  // namespace rsd
