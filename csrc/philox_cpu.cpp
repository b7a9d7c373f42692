#include "parallel.h"
#include "philox.h"
#include "random.h"

namespace rsd {
namespace {

constexpr int64_t kTile = 64;     // blocks computed at a time: few enough for L1, enough to vectorise
constexpr int64_t kGrain = 8192;  // blocks a thread takes at least

}  // namespace

void philox_cpu(const PhiloxArgs& a, int threads) {
  parallel_for(a.count, kGrain, threads, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      const Words w =
          philox(a.seed, uint32_t(a.element[i]), uint32_t(a.sample[i]), uint32_t(a.step[i]), a.stream);
      std::memcpy(a.out + 4 * i, &w, sizeof w);
    }
  });
}

void randn_cpu(const RandnArgs& a, int threads) {
  const int64_t tiles = (a.blocks() + kTile - 1) / kTile;  // of a sample
  parallel_for(a.batch * tiles, kGrain / kTile, threads, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      const int64_t b = i / tiles, first = i % tiles * kTile;
      const int64_t count = std::min(kTile, a.blocks() - first);
      const uint32_t sample = uint32_t(a.sample[b * a.sample_stride]),
                     step = uint32_t(a.step[b * a.step_stride]);
      float tile[4 * kTile];
      for (int64_t j = 0; j < count; ++j) {
        const Normals n = normals(philox(a.seed, uint32_t(first + j), sample, step, a.stream));
        tile[4 * j] = n.n0;
        tile[4 * j + 1] = n.n1;
        tile[4 * j + 2] = n.n2;
        tile[4 * j + 3] = n.n3;
      }
      std::memcpy(a.out + b * a.inner + 4 * first, tile,
                  size_t(std::min(4 * count, a.inner - 4 * first)) * sizeof(float));
    }
  });
}

}  // namespace rsd
