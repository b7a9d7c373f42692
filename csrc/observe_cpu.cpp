#include "elements.h"
#include "observe_math.h"
#include "plane_tiles.h"
#include "random_tile.h"

namespace rsd::RSD_ISA {
namespace {

constexpr int kPixels = 4 * kTile;  // a tile's buffer

struct Counter {
  uint64_t seed;
  uint32_t sample, step;
};

// All 0 where `samples` is null.
inline Counter counter(uint64_t seed, const int64_t* samples, int64_t sample_at, const int64_t* steps,
                       int64_t step_at) {
  if (samples == nullptr) return {};
  return {seed, uint32_t(samples[sample_at]), uint32_t(steps[step_at])};
}

template <class A>
inline void add_noise(A* __restrict v, int64_t n, A scale, const Counter& c, int64_t element, uint32_t stream) {
  alignas(64) float normal[kPixels];
  normals_tile(normal, c.seed, uint32_t(element / 4), c.sample, c.step, stream, (element % 4 + n + 3) / 4);
  const float* from = normal + element % 4;
  for (int64_t i = 0; i < n; ++i) v[i] = v[i] + scale * A(from[i]);
}

inline void keep_words(uint32_t (&word)[kPixels], const Counter& c, int64_t element, int64_t n) {
  alignas(64) uint32_t words[4][kTile];
  const int64_t blocks = (element % 4 + n + 3) / 4;
  words_tile(words, c.seed, uint32_t(element / 4), c.sample, c.step, OBSERVATION_MASK, blocks);
  for (int64_t j = 0; j < blocks; ++j) {
    for (int k = 0; k < 4; ++k) word[4 * j + k] = words[k][j];
  }
}

template <class T, class A>
inline void store(void* to, const A* __restrict v, int64_t at, int64_t stride, int64_t n, A factor) {
  T* __restrict out = static_cast<T*>(to) + at;
  if (stride == 1) {
    for (int64_t i = 0; i < n; ++i) out[i] = narrow<T>(factor * v[i]);
  } else {
    alignas(64) T dense[kPixels];
    for (int64_t i = 0; i < n; ++i) dense[i] = narrow<T>(factor * v[i]);
    for (int64_t i = 0; i < n; ++i) out[i * stride] = dense[i];
  }
}

void write_mask(const ObserveArgs& a, int64_t b, const Counter& c) {
  const int64_t elements = a.mask_elements();
  alignas(64) uint32_t word[kPixels];
  for (int64_t first = 0; first < elements; first += kPixels) {
    const int64_t left = elements - first, n = left < kPixels ? left : kPixels;
    keep_words(word, c, first, n);
    if (!a.packed) {
      uint8_t* mask = a.mask + b * elements + first;
      for (int64_t i = 0; i < n; ++i) mask[i] = word[i] >= a.threshold;
    } else {
      uint8_t* mask = a.mask + b * ((elements + 7) / 8) + first / 8;
      for (int64_t i = 0; i < n; i += 8) {
        int bits = 0;
        for (int64_t j = i; j < n && j < i + 8; ++j) bits |= int(word[j] >= a.threshold) << (j - i);
        mask[i / 8] = uint8_t(bits);
      }
    }
  }
}

}  // namespace

void observe(const ObserveArgs& a, int64_t begin, int64_t end) {
  with_types(a.net_dtype, a.dtype, [&](auto net, auto image) {
    using T = decltype(net);
    using A = decltype(image);
    const int64_t pixels = a.pixels(), in_pixels = a.in_height * a.in_width;
    const int64_t channel_stride = a.channels_last ? 1 : pixels, pixel_stride = a.channels_last ? a.channels : 1;
    const int64_t in_channel_stride = a.images_channels_last ? 1 : in_pixels;
    const int64_t in_pixel_stride = a.images_channels_last ? a.channels : 1;
    const auto taps = taps_of<A>(a.kernel, a.kind == kBlur ? a.kernel_rows : 0, a.kernel_columns, a.separable, false);
    alignas(64) A v[kPixels];
    alignas(64) uint32_t word[kPixels];

    for (int64_t b = begin; b < end; ++b) {
      const Noising<A> levels = noising_of<A>(a, b);
      const Counter observation =
          counter(a.seed, a.index, b * a.index_stride, a.observation_step, b * a.observation_step_stride);
      const Counter permanent = {a.seed, observation.sample, 0};
      const Counter diffusion = counter(a.noise_seed, a.sample, b * a.sample_stride, a.step, b * a.step_stride);

      const auto load = [&](int64_t c, int64_t p, int64_t n, A* __restrict to) {  // n pixels from p on
        const int64_t in = b * a.channels * in_pixels + c * in_channel_stride + p * in_pixel_stride;
        if (a.images_dtype == kUInt8) {
          const uint8_t* from = static_cast<const uint8_t*>(a.images) + in;
          for (int64_t i = 0; i < n; ++i) to[i] = A(from_uint8(from[i * in_pixel_stride]));
        } else {
          const A* from = static_cast<const A*>(a.images) + in;
          for (int64_t i = 0; i < n; ++i) to[i] = from[i * in_pixel_stride];
        }
      };
      // What happens to v, n pixels of channel c from p on, after the operator; kept: their random words.
      const auto finish = [&](int64_t c, int64_t p, int64_t n, const uint32_t* kept) {
        const int64_t element = c * pixels + p;
        const int64_t out = b * a.channels * pixels + c * channel_stride + p * pixel_stride;
        if (a.index != nullptr && levels.sigma_obs != 0)
          add_noise(v, n, levels.sigma_obs, observation, element, OBSERVATION_NOISE);
        if (kept != nullptr) {
          for (int64_t i = 0; i < n; ++i) v[i] = kept[i] >= a.threshold ? v[i] : A(0);
        }
        if (a.y != nullptr) store<A>(a.y, v, out, pixel_stride, n, A(1));
        if (a.sigma == nullptr) return;
        add_noise(v, n, levels.scale, diffusion, element, DIFFUSION_NOISE);
        store<A>(a.x_t, v, out, pixel_stride, n, A(1));
        store<T>(a.net_input, v, out, pixel_stride, n, levels.c_in);
      };

      if (a.kind == kIdentity || a.kind == kMask) {
        // A tile may begin within a block of four where the pixels of a channel are no multiple of four.
        const int64_t tile = pixels % 4 == 0 ? kPixels : kPixels - 4;
        for (int64_t p = 0; p < pixels; p += tile) {
          const int64_t left = pixels - p, n = left < tile ? left : tile;
          if (a.kind == kMask && a.shared) keep_words(word, permanent, p, n);
          for (int64_t c = 0; c < a.channels; ++c) {
            const int64_t first = a.shared ? p : c * pixels + p;
            if (a.kind == kMask && !a.shared) keep_words(word, permanent, first, n);
            load(c, p, n, v);
            finish(c, p, n, a.kind == kMask ? word + first % 4 : nullptr);
          }
        }
      } else {
        const int most = a.kind == kBlur ? blur_columns(1) : downsample_columns(a.factor, 1);
        const int64_t tiles = tiles_of(a.height, a.width, most);
        for (int64_t c = 0; c < a.channels; ++c) {
          const auto load_row = [&](int64_t row, int64_t column, int n, A* to) -> const A* {
            load(c, row * a.in_width + column, n, to);
            return to;
          };
          const auto store_row = [&](int64_t row, int64_t column, int n, const A* from) {
            for (int i = 0; i < n; i += kPixels - 4) {
              const int part = n - i < kPixels - 4 ? n - i : kPixels - 4;
              std::memcpy(v, from + i, size_t(part) * sizeof(A));
              finish(c, row * a.width + column + i, part, nullptr);
            }
          };
          for (int64_t i = 0; i < tiles; ++i) {
            const Tile tile = tile_of(i, a.height, a.width, most);
            if (a.kind == kBlur)
              blur_tile<false>(taps, a.in_height, a.in_width, 1, tile, load_row, store_row);
            else
              downsample_tile<A>(a.in_height, a.in_width, a.factor, 1, tile, load_row, store_row);
          }
        }
      }
      if (a.mask != nullptr) write_mask(a, b, permanent);
    }
  });
}

}  // namespace rsd::RSD_ISA
