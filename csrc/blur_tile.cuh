// Blur of tiles on the GPU: one kernel for every op that blurs; rsd_fast/ops/blur.py has the mathematics.
//
// A block takes a tile of one plane into shared memory, with the kernel's radius around it, and a thread sums up four
// neighbouring columns. images.cuh has the functors that numbers come from and go to.
#pragma once
#include "images.cuh"
#include "launch.cuh"
#include "linear.h"

namespace rsd {

constexpr int kBlurTile = 32, kBlurThreads = kBlurTile * kBlurTile / 4;

// total[i] += taps[0] from[i pitch] + taps[1] from[(i + 1) pitch] + ..., i < 4, every number of `from` read once.
template <class A>
__device__ __forceinline__ void four_sums(A (&total)[4], const A* taps, int count, const A* from, int pitch) {
  A a = from[0], b = from[pitch], c = from[2 * pitch];
#pragma unroll 4
  for (int t = 0; t < count; ++t) {
    const A d = from[(t + 3) * pitch], tap = taps[t];
    total[0] = total[0] + tap * a;
    total[1] = total[1] + tap * b;
    total[2] = total[2] + tap * c;
    total[3] = total[3] + tap * d;
    a = b, b = c, c = d;
  }
}

// values[at] = value, which stay in registers.
template <class A>
__device__ __forceinline__ void put(A (&values)[4], int at, A value) {
#pragma unroll
  for (int i = 0; i < 4; ++i) values[i] = i == at ? value : values[i];
}

// f(at) + f(-at) + f(2 (size - 1) - at), of the last two those that the adjoint folds back.
template <class F>
__device__ __forceinline__ auto folded(int64_t at, int64_t size, int radius, const F& f) {
  auto total = f(at);
  if (folds(-at, size, radius)) total = total + f(-at);
  if (folds(2 * (size - 1) - at, size, radius)) total = total + f(2 * (size - 1) - at);
  return total;
}

// Whether nothing folds back on to any of [at, at + n).
__device__ __forceinline__ bool inner(int64_t at, int n, int64_t size, int radius) {
  return radius == 0 || (at > radius && at + n <= size - 1 - radius);
}

// A tile's part of the source in shared memory; what lies beyond the image and is not reflected is 0.
struct BlurShape {
  int down, across;          // radii
  int rows, columns, pitch;  // of the source's part; pitch is odd, so that a warp's rows lie in different banks
  int down_numbers;          // of the sums down its columns
};

RSD_HD BlurShape blur_shape(int kernel_rows, int kernel_columns, bool separable) {
  const int down = kernel_rows / 2, across = kernel_columns / 2;
  const int rows = kBlurTile + 2 * down, columns = kBlurTile + 2 * across, pitch = columns | 1;
  return {down, across, rows, columns, pitch, separable ? kBlurTile * pitch : 0};
}

template <bool adjoint, class A, class Load, class Store>
__global__ void __launch_bounds__(kBlurThreads, sizeof(A) == 8 ? 3 : 4)
    blur_kernel(const __grid_constant__ Taps<A> taps, Images images, int64_t tasks, Load load, Store store) {
  extern __shared__ __align__(16) unsigned char shared[];
  const BlurShape shape = blur_shape(taps.rows, taps.columns, taps.separable);
  const int pitch = shape.pitch;
  A* source = reinterpret_cast<A*>(shared);  // [rows, pitch]
  A* down = source + shape.rows * pitch;     // [kBlurTile, pitch]
  const int64_t height = images.height, width = images.width;
  const int64_t tiles_down = (height + kBlurTile - 1) / kBlurTile, tiles_across = (width + kBlurTile - 1) / kBlurTile;

  for (int64_t task = blockIdx.x; task < tasks; task += gridDim.x) {
    const int64_t plane = task / (tiles_down * tiles_across), tile = task % (tiles_down * tiles_across);
    const int64_t b = plane / images.channels, c = plane % images.channels;
    const int64_t top = tile / tiles_across * kBlurTile, left = tile % tiles_across * kBlurTile;

    for (int i = threadIdx.x; i < shape.rows * shape.columns; i += kBlurThreads) {
      const int y = i / shape.columns, x = i % shape.columns;
      int64_t row = top + y - shape.down, column = left + x - shape.across;
      if (!adjoint && row < height + shape.down && column < width + shape.across) {
        row = reflect(row, height);
        column = reflect(column, width);
      }
      const bool inside = row >= 0 && row < height && column >= 0 && column < width;
      source[y * pitch + x] = inside ? load(b, c, row, column) : A(0);
    }
    __syncthreads();

    if (taps.separable) {
      for (int i = threadIdx.x; i < kBlurTile / 4 * shape.columns; i += kBlurThreads) {
        const int y = i / shape.columns * 4, x = i % shape.columns;
        const A* column = source + x;
        A total[4] = {};
        four_sums(total, taps.v, taps.rows, column + y * pitch, pitch);
        if (adjoint && !inner(top + y, 4, height, shape.down)) {
          for (int j = 0; j < 4; ++j) {
            if (top + y + j >= height) break;
            const A sum = folded(top + y + j, height, shape.down, [&](int64_t row) {
              A sum = 0;
              for (int t = 0; t < taps.rows; ++t) {
                const int64_t from = row + t - shape.down;
                if (from >= 0 && from < height) sum = sum + taps.v[t] * column[(from - top + shape.down) * pitch];
              }
              return sum;
            });
            put(total, j, sum);
          }
        }
#pragma unroll
        for (int j = 0; j < 4; ++j) down[(y + j) * pitch + x] = total[j];
      }
      __syncthreads();
    }

    const int y = threadIdx.x / (kBlurTile / 4), x = threadIdx.x % (kBlurTile / 4) * 4;
    const int64_t row = top + y, column = left + x;
    if (row < height && column < width) {
      const int n = int(width - column < 4 ? width - column : 4);
      const int rows = taps.separable ? 1 : taps.rows;                       // left to sum up
      const A* lines = taps.separable ? down : source + shape.down * pitch;  // whose row y is row `top + y`
      A total[4] = {};
      for (int i = 0; i < rows; ++i)
        four_sums(total, taps.v + i * taps.columns, taps.columns, lines + (y + i - rows / 2) * pitch + x, 1);
      const int radius = rows / 2;
      if (adjoint && !(inner(row, 1, height, radius) && inner(column, 4, width, shape.across))) {
        for (int j = 0; j < n; ++j) {
          const A sum = folded(column + j, width, shape.across, [&](int64_t q) {
            return folded(row, height, radius, [&](int64_t p) {
              A sum = 0;
              for (int i = 0; i < rows; ++i) {
                const int64_t from = p + i - radius;
                if (from < 0 || from >= height) continue;
                for (int t = 0; t < taps.columns; ++t) {
                  const int64_t at = q + t - shape.across;
                  if (at < 0 || at >= width) continue;
                  sum = sum + taps.v[i * taps.columns + t] * lines[(from - top) * pitch + at - left + shape.across];
                }
              }
              return sum;
            });
          });
          put(total, j, sum);
        }
      }
      store(b, c, row, column, total, n);
    }
    __syncthreads();  // before the next task overwrites what others still read
  }
}

// K x, or K^T x where `adjoint`, with flipped taps, of `batch` images.
template <bool adjoint, class A, class Load, class Store>
void launch_blur(const Taps<A>& taps, int64_t batch, const Images& images, const Load& load, const Store& store,
                 int device, cudaStream_t stream) {
  const int64_t tiles_down = (images.height + kBlurTile - 1) / kBlurTile;
  const int64_t tasks = batch * images.channels * tiles_down * ((images.width + kBlurTile - 1) / kBlurTile);
  if (tasks == 0) return;
  const BlurShape shape = blur_shape(taps.rows, taps.columns, taps.separable);
  const size_t numbers = size_t(shape.rows * shape.pitch + shape.down_numbers);  // 47 KB at most
  const unsigned grid = grid_size(tasks, device);
  blur_kernel<adjoint><<<grid, kBlurThreads, numbers * sizeof(A), stream>>>(taps, images, tasks, load, store);
}

}  // namespace rsd
