#include "downsample.h"
#include "plane_tiles.h"

namespace rsd::RSD_ISA {
namespace {

// Calls f(A{}, x, out, plane, tile) for every piece of work: A is the type of sums, x and out are elements.
template <class Function>
void run(const DownsampleArgs& a, int64_t begin, int64_t end, const Function& f) {
  with_dtype(a.dtype, [&](auto type) {
    using T = decltype(type);
    const int64_t tiles = a.tiles(), height = blocks_of(a.height, a.factor), width = blocks_of(a.width, a.factor);
    for (int64_t i = begin; i < end; ++i) {
      f(Acc<T>{}, static_cast<const T*>(a.x), static_cast<T*>(a.out), plane_of(i / tiles, a.channels, a.channels_last),
        tile_of(i % tiles, height, width, a.columns()));
    }
  });
}

}  // namespace

void downsample(const DownsampleArgs& a, int64_t begin, int64_t end) {
  const Images large{a.channels, a.height, a.width, a.channels_last};
  const Images small{a.channels, blocks_of(a.height, a.factor), blocks_of(a.width, a.factor), a.channels_last};
  run(a, begin, end, [&](auto sum, auto* x, auto* out, Plane plane, Tile tile) {
    downsample_tile<decltype(sum)>(a.height, a.width, a.factor, plane.step, tile, load_rows(x, large, plane),
                                   store_rows(out, small, plane));
  });
}

void downsample_adjoint(const DownsampleArgs& a, int64_t begin, int64_t end) {
  const Images large{a.channels, a.height, a.width, a.channels_last};
  const Images small{a.channels, blocks_of(a.height, a.factor), blocks_of(a.width, a.factor), a.channels_last};
  run(a, begin, end, [&](auto sum, auto* y, auto* out, Plane plane, Tile tile) {
    downsample_adjoint_tile<decltype(sum)>(a.height, a.width, a.factor, plane.step, tile, load_rows(y, small, plane),
                                           store_rows(out, large, plane));
  });
}

}  // namespace rsd::RSD_ISA
