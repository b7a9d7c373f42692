#include "blur.h"
#include "blur_tile.cuh"

namespace rsd {
namespace {

template <bool adjoint>
void run(const BlurArgs& a, int device, void* stream) {
  if (a.work() == 0) return;
  check_image_type(a.dtype);
  DeviceGuard guard(device);
  with_dtype(a.dtype, [&](auto type) {
    using T = decltype(type);
    const auto taps = taps_of<Acc<T>>(a.kernel, a.kernel_rows, a.kernel_columns, a.separable, adjoint);
    const Images images{a.channels, a.height, a.width, a.channels_last};
    launch_blur<adjoint>(taps, a.batch, images, LoadImage<T>{static_cast<const T*>(a.x), images},
                         StoreImage<T>{static_cast<T*>(a.out), images}, device, static_cast<cudaStream_t>(stream));
  });
  RSD_CUDA_CHECK(cudaGetLastError(), adjoint ? "blur_adjoint" : "blur");
}

}  // namespace

void blur_cuda(const BlurArgs& a, int device, void* stream) { run<false>(a, device, stream); }
void blur_adjoint_cuda(const BlurArgs& a, int device, void* stream) { run<true>(a, device, stream); }

}  // namespace rsd
