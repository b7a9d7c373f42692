#include "blur_tile.cuh"
#include "downsample_tile.cuh"
#include "elements.h"
#include "observe_math.h"
#include "random.h"

namespace rsd {
namespace {

constexpr int64_t kQuads = 2048;  // of consecutive pixels, a task's

// The counter of a sample's noise of one kind; of none where the pointer is null.
struct Counter {
  uint64_t seed;
  uint32_t sample, step;

  __device__ Counter(uint64_t seed, const int64_t* samples, int64_t sample_at, const int64_t* steps, int64_t step_at)
      : seed(seed),
        sample(samples == nullptr ? 0 : uint32_t(samples[sample_at])),
        step(samples == nullptr ? 0 : uint32_t(steps[step_at])) {}
  __device__ Words words(int64_t block, uint32_t stream) const {
    return philox(seed, uint32_t(block), sample, step, stream);
  }
};

// The four normals, or words, of a block, by element.
__device__ __forceinline__ void unpack(const Normals& n, float (&to)[4]) {
  to[0] = n.n0, to[1] = n.n1, to[2] = n.n2, to[3] = n.n3;
}
__device__ __forceinline__ void unpack(const Words& w, uint32_t (&to)[4]) {
  to[0] = w.w0, to[1] = w.w1, to[2] = w.w2, to[3] = w.w3;
}

// All that happens to a pixel after the operator, for element e of a sample.
template <class A>
struct Sample {
  Noising<A> levels;
  Counter observation, diffusion;
  bool observed;  // with noise

  __device__ Sample(const ObserveArgs& a, int64_t b)
      : levels(noising_of<A>(a, b)),
        observation(a.seed, a.index, b * a.index_stride, a.observation_step, b * a.observation_step_stride),
        diffusion(a.noise_seed, a.sample, b * a.sample_stride, a.step, b * a.step_stride),
        observed(a.index != nullptr && levels.sigma_obs != 0) {}

  __device__ __forceinline__ void observe(A (&v)[4], int64_t block) const {
    if (!observed) return;
    float n[4];
    unpack(normals(observation.words(block, OBSERVATION_NOISE)), n);
#pragma unroll
    for (int i = 0; i < 4; ++i) v[i] = v[i] + levels.sigma_obs * A(n[i]);
  }
  __device__ __forceinline__ void mask(A (&v)[4], int64_t block, uint64_t threshold) const {
    uint32_t w[4];
    unpack(philox(observation.seed, uint32_t(block), observation.sample, 0, OBSERVATION_MASK), w);
#pragma unroll
    for (int i = 0; i < 4; ++i) v[i] = w[i] >= threshold ? v[i] : A(0);
  }
  __device__ __forceinline__ void perturb(A (&v)[4], int64_t block) const {
    float n[4];
    unpack(normals(diffusion.words(block, DIFFUSION_NOISE)), n);
#pragma unroll
    for (int i = 0; i < 4; ++i) v[i] = v[i] + levels.scale * A(n[i]);
  }
};

template <class T, int kCount>
struct alignas(kCount * sizeof(T) % 16 == 0 ? 16 : 8) Row {  // kCount neighbours in memory
  T v[kCount];
};

template <class T, int kCount>
__device__ __forceinline__ void store_row(void* to, int64_t at, const Row<T, kCount>& row) {
  using Word = std::conditional_t<sizeof(row) % 16 == 0, uint4, uint2>;
  Word* words = reinterpret_cast<Word*>(static_cast<T*>(to) + at);
#pragma unroll
  for (size_t i = 0; i < sizeof(row) / sizeof(Word); ++i) __stcg(words + i, reinterpret_cast<const Word*>(&row)[i]);
}

template <class A>
__device__ __forceinline__ A pixel(const ObserveArgs& a, int64_t at) {
  if constexpr (sizeof(A) == 4) {
    if (a.images_dtype == kUInt8) return from_uint8(static_cast<const uint8_t*>(a.images)[at]);
  }
  return static_cast<const A*>(a.images)[at];
}

// Four neighbouring pixels of a channel.
template <class A>
__device__ __forceinline__ void load_quad(const ObserveArgs& a, int64_t at, int64_t stride, A (&v)[4]) {
  if constexpr (sizeof(A) == 4) {
    if (stride == 1 && a.images_dtype == kUInt8) {
      const uchar4 quad = __ldg(reinterpret_cast<const uchar4*>(static_cast<const uint8_t*>(a.images) + at));
      v[0] = from_uint8(quad.x), v[1] = from_uint8(quad.y), v[2] = from_uint8(quad.z), v[3] = from_uint8(quad.w);
      return;
    }
    if (stride == 1) {
      const float4 quad = __ldg(reinterpret_cast<const float4*>(static_cast<const float*>(a.images) + at));
      v[0] = quad.x, v[1] = quad.y, v[2] = quad.z, v[3] = quad.w;
      return;
    }
  }
#pragma unroll
  for (int i = 0; i < 4; ++i) v[i] = pixel<A>(a, at + i * stride);
}

// Identity and mask, where the pixels of a channel are a multiple of four: a thread takes four pixels at a time, of one
// channel, or of all kChannels where the outputs are channels-last, so that each random block is computed once and each
// output is written in 16 bytes (8 in half precision with one or three channels).
template <class T, class A, int kChannels>
__global__ void __launch_bounds__(kThreads) observe_kernel(ObserveArgs a, int64_t tasks) {
  const int64_t pixels = a.pixels(), inner = a.channels * pixels, quads = pixels / 4;
  const int64_t tiles = (quads + kQuads - 1) / kQuads, planes = a.channels / kChannels;
  const int64_t in_channel_stride = a.images_channels_last ? 1 : pixels;
  const int64_t in_pixel_stride = a.images_channels_last ? a.channels : 1;
  for (int64_t task = blockIdx.x; task < tasks; task += gridDim.x) {
    const int64_t plane = task / tiles % planes, b = task / tiles / planes, first = task % tiles * kQuads;
    const int n = int(min(kQuads, quads - first));
    const Sample<A> sample(a, b);
#pragma unroll 1
    for (int q = threadIdx.x; q < n; q += kThreads) {
      const int64_t quad = first + q, out = b * inner + plane * pixels + 4 * quad * kChannels;
      Row<A, 4 * kChannels> row;
#pragma unroll
      for (int k = 0; k < kChannels; ++k) {
        const int64_t c = plane * kChannels + k, block = c * quads + quad;
        A v[4];
        load_quad(a, b * inner + c * in_channel_stride + 4 * quad * in_pixel_stride, in_pixel_stride, v);
        sample.observe(v, block);
        if (a.kind == kMask) sample.mask(v, a.shared ? quad : block, a.threshold);
#pragma unroll
        for (int i = 0; i < 4; ++i) row.v[i * kChannels + k] = v[i];
      }
      if (a.y != nullptr) store_row(a.y, out, row);
      if (a.sigma == nullptr) continue;
      Row<T, 4 * kChannels> net_input;
#pragma unroll
      for (int k = 0; k < kChannels; ++k) {
        A v[4];
#pragma unroll
        for (int i = 0; i < 4; ++i) v[i] = row.v[i * kChannels + k];
        sample.perturb(v, (plane * kChannels + k) * quads + quad);
#pragma unroll
        for (int i = 0; i < 4; ++i) {
          row.v[i * kChannels + k] = v[i];
          net_input.v[i * kChannels + k] = narrow<T>(sample.levels.c_in * v[i]);
        }
      }
      store_row(a.x_t, out, row);
      store_row(a.net_input, out, net_input);
    }
  }
}

// Identity and mask for any shape and layout: a thread an element, and a random block for each element.
template <class T, class A>
__global__ void __launch_bounds__(kThreads) observe_each_kernel(ObserveArgs a) {
  const int64_t pixels = a.pixels(), inner = a.channels * pixels;
  for (int64_t i = int64_t(blockIdx.x) * kThreads + threadIdx.x; i < a.batch * inner;
       i += int64_t(gridDim.x) * kThreads) {
    const int64_t b = i / inner, e = i % inner, c = e / pixels, p = e % pixels;
    const Sample<A> sample(a, b);
    A v[4] = {}, value = pixel<A>(a, b * inner + (a.images_channels_last ? p * a.channels + c : e));
    const auto with = [&](int64_t element, const auto& step) {  // only the element's lane holds the value
#pragma unroll
      for (int lane = 0; lane < 4; ++lane) v[lane] = value;
      step(element / 4);
      const int64_t lane = element % 4;
      value = lane == 0 ? v[0] : lane == 1 ? v[1] : lane == 2 ? v[2] : v[3];
    };
    with(e, [&](int64_t block) { sample.observe(v, block); });
    if (a.kind == kMask) with(a.shared ? p : e, [&](int64_t block) { sample.mask(v, block, a.threshold); });
    const int64_t out = b * inner + (a.channels_last ? p * a.channels + c : e);
    if (a.y != nullptr) static_cast<A*>(a.y)[out] = value;
    if (a.sigma == nullptr) continue;
    with(e, [&](int64_t block) { sample.perturb(v, block); });
    static_cast<A*>(a.x_t)[out] = value;
    static_cast<T*>(a.net_input)[out] = narrow<T>(sample.levels.c_in * value);
  }
}

// The mask itself, where asked for: a thread eight elements.
__global__ void __launch_bounds__(kThreads) mask_kernel(ObserveArgs a, int64_t octets) {
  const int64_t elements = a.mask_elements();
  for (int64_t i = int64_t(blockIdx.x) * kThreads + threadIdx.x; i < a.batch * octets;
       i += int64_t(gridDim.x) * kThreads) {
    const int64_t b = i / octets, octet = i % octets;
    int bits = 0;
    for (int half = 0; half < 2; ++half) {
      uint32_t w[4];
      unpack(philox(a.seed, uint32_t(2 * octet + half), uint32_t(a.index[b * a.index_stride]), 0, OBSERVATION_MASK), w);
#pragma unroll
      for (int j = 0; j < 4; ++j) {
        const int64_t element = 8 * octet + 4 * half + j;
        if (element >= elements) break;
        const bool kept = w[j] >= a.threshold;
        if (!a.packed) a.mask[b * elements + element] = kept;
        bits |= int(kept) << (4 * half + j);
      }
    }
    if (a.packed) a.mask[b * octets + octet] = uint8_t(bits);
  }
}

// An image's pixels, normalised, for the linear operators (images.cuh).
template <class A>
struct LoadPixel {
  ObserveArgs a;
  Images images;
  __device__ __forceinline__ A operator()(int64_t b, int64_t c, int64_t row, int64_t column) const {
    return pixel<A>(a, element_of(images, b, c, row, column));
  }
};

// Their results, with all the noise there is. Four columns are one random block where the width is a multiple of four.
template <class T, class A>
struct StoreNoised {
  ObserveArgs a;
  Images images;
  __device__ __forceinline__ void operator()(int64_t b, int64_t c, int64_t row, int64_t column, const A (&values)[4],
                                             int n) const {
    const Sample<A> sample(a, b);
    const int64_t element = (c * images.height + row) * images.width + column;
    const int64_t at = element_of(images, b, c, row, column), stride = a.channels_last ? a.channels : 1;
    A v[4];
#pragma unroll
    for (int i = 0; i < 4; ++i) v[i] = values[i];
    with_blocks(element, v, [&](A(&quad)[4], int64_t block) { sample.observe(quad, block); });
    if (a.y != nullptr) store(static_cast<A*>(a.y), at, stride, v, n, A(1));
    if (a.sigma == nullptr) return;
    with_blocks(element, v, [&](A(&quad)[4], int64_t block) { sample.perturb(quad, block); });
    store(static_cast<A*>(a.x_t), at, stride, v, n, A(1));
    store(static_cast<T*>(a.net_input), at, stride, v, n, sample.levels.c_in);
  }

  // Applies f(quad, block) to four elements that may lie in two blocks: each at its lane of its block.
  template <class F>
  __device__ __forceinline__ static void with_blocks(int64_t element, A (&v)[4], const F& f) {
    const int shift = int(element % 4);
    const int64_t block = element / 4;
    if (shift == 0) return f(v, block);
    // Moved along by `shift` in two conditional steps: an index that depends on it would send them through memory.
    A low[4] = {v[0], v[1], v[2], v[3]}, high[4] = {};
    if (shift & 1) high[0] = low[3], low[3] = low[2], low[2] = low[1], low[1] = low[0];
    if (shift & 2) high[2] = high[0], high[1] = low[3], high[0] = low[2], low[3] = low[1], low[2] = low[0];
    f(low, block);
    f(high, block + 1);
    if (shift & 2) low[0] = low[2], low[1] = low[3], low[2] = high[0], low[3] = high[1], high[0] = high[2];
    if (shift & 1) low[0] = low[1], low[1] = low[2], low[2] = low[3], low[3] = high[0];
#pragma unroll
    for (int i = 0; i < 4; ++i) v[i] = low[i];
  }

  template <class Out>
  __device__ __forceinline__ static void store(Out* out, int64_t at, int64_t stride, const A (&v)[4], int n, A factor) {
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      if (i < n) out[at + i * stride] = narrow<Out>(factor * v[i]);
    }
  }
};

template <class T, class A>
void linear(const ObserveArgs& a, int device, cudaStream_t queue) {
  const Images large{a.channels, a.in_height, a.in_width, a.images_channels_last};
  const LoadPixel<A> load{a, large};
  const StoreNoised<T, A> store{a, {a.channels, a.height, a.width, a.channels_last}};
  if (a.kind == kDownsample) return launch_downsample<A>(a.batch, large, a.factor, load, store, device, queue);
  const auto taps = taps_of<A>(a.kernel, a.kernel_rows, a.kernel_columns, a.separable, false);
  launch_blur<false>(taps, a.batch, large, load, store, device, queue);
}

bool aligned(const void* pointer) { return reinterpret_cast<uintptr_t>(pointer) % 16 == 0; }

template <class T, class A>
void elementwise(const ObserveArgs& a, int device, cudaStream_t queue) {
  const int64_t pixels = a.pixels();
  const bool quads = pixels % 4 == 0 && aligned(a.images) && aligned(a.y) && aligned(a.x_t) && aligned(a.net_input);
  const int64_t tiles = (pixels / 4 + kQuads - 1) / kQuads;
  const auto launch = [&](auto kernel, int64_t tasks) {
    kernel<<<grid_size(tasks, device), kThreads, 0, queue>>>(a, tasks);
  };
  if (quads && !a.channels_last) return launch(observe_kernel<T, A, 1>, a.batch * a.channels * tiles);
  if (quads && a.channels == 2) return launch(observe_kernel<T, A, 2>, a.batch * tiles);
  if (quads && a.channels == 3) return launch(observe_kernel<T, A, 3>, a.batch * tiles);
  if (quads && a.channels == 4) return launch(observe_kernel<T, A, 4>, a.batch * tiles);
  const int64_t blocks = (a.batch * a.channels * pixels + kThreads - 1) / kThreads;
  observe_each_kernel<T, A><<<grid_size(blocks, device), kThreads, 0, queue>>>(a);
}

}  // namespace

void observe_cuda(const ObserveArgs& a, int device, void* stream) {
  if (a.batch * a.pixels() == 0) return;
  check_types(a.net_dtype, a.dtype);
  DeviceGuard guard(device);
  const auto queue = static_cast<cudaStream_t>(stream);
  if (a.channels > 0)
    with_types(a.net_dtype, a.dtype, [&](auto net, auto image) {
      using T = decltype(net);
      using A = decltype(image);
      if (a.kind == kIdentity || a.kind == kMask)
        elementwise<T, A>(a, device, queue);
      else
        linear<T, A>(a, device, queue);
    });
  RSD_CUDA_CHECK(cudaGetLastError(), "observe");
  if (a.mask == nullptr) return;
  const int64_t octets = (a.mask_elements() + 7) / 8;
  mask_kernel<<<grid_size((a.batch * octets + kThreads - 1) / kThreads, device), kThreads, 0, queue>>>(a, octets);
  RSD_CUDA_CHECK(cudaGetLastError(), "observe");
}

}  // namespace rsd
