#include "philox.h"
#include "random_tile.h"

namespace rsd::RSD_ISA {

void philox(const PhiloxArgs& a, int64_t begin, int64_t end) {
  for (int64_t i = begin; i < end; ++i) {
    const Words w = rsd::philox(a.seed, uint32_t(a.element[i]), uint32_t(a.sample[i]), uint32_t(a.step[i]), a.stream);
    std::memcpy(a.out + 4 * i, &w, sizeof w);
  }
}

void randn(const RandnArgs& a, int64_t begin, int64_t end) {
  for (int64_t i = begin; i < end; ++i) {
    const int64_t b = i / a.tiles(), first = i % a.tiles() * kTile, left = a.inner - 4 * first;
    const uint32_t sample = uint32_t(a.sample[b * a.sample_stride]), step = uint32_t(a.step[b * a.step_stride]);
    alignas(64) float tile[4 * kTile];
    normals_tile(tile, a.seed, uint32_t(first), sample, step, a.stream);
    std::memcpy(a.out + b * a.inner + 4 * first, tile, size_t(left < 4 * kTile ? left : 4 * kTile) * sizeof(float));
  }
}

}  // namespace rsd::RSD_ISA
