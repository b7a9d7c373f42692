#include "blur.h"
#include "plane_tiles.h"

namespace rsd::RSD_ISA {
namespace {

template <bool adjoint>
void run(const BlurArgs& a, int64_t begin, int64_t end) {
  with_dtype(a.dtype, [&](auto type) {
    using T = decltype(type);
    const auto taps = taps_of<Acc<T>>(a.kernel, a.kernel_rows, a.kernel_columns, a.separable, adjoint);
    const Images images{a.channels, a.height, a.width, a.channels_last};
    const int64_t tiles = a.tiles();
    for (int64_t i = begin; i < end; ++i) {
      const Plane plane = plane_of(i / tiles, a.channels, a.channels_last);
      blur_tile<adjoint>(taps, a.height, a.width, plane.step, tile_of(i % tiles, a.height, a.width, a.columns()),
                         load_rows(static_cast<const T*>(a.x), images, plane),
                         store_rows(static_cast<T*>(a.out), images, plane));
    }
  });
}

}  // namespace

void blur(const BlurArgs& a, int64_t begin, int64_t end) { run<false>(a, begin, end); }
void blur_adjoint(const BlurArgs& a, int64_t begin, int64_t end) { run<true>(a, begin, end); }

}  // namespace rsd::RSD_ISA
