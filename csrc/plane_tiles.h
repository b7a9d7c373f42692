// Blur and area downsampling of one tile of a plane on the CPU; rsd_fast/ops/{blur,downsample}.py have the mathematics.
// Rows of a plane come from and go to functors:
//
//     const A* load(int64_t row, int64_t column, int n, A* to)        n pixels; fills `to` and returns it, or returns
//                                                                     where the numbers lie already
//     void store(int64_t row, int64_t column, int n, const A* from)
//
// so that other kernels can read other types, normalise or add noise on the way. Nothing is allocated: what a tile
// needs is on the stack, whatever the size of the image.
#pragma once
#include "dtype.h"
#include "linear.h"

namespace rsd {

// A plane's rows in memory as the functors below. (Lambdas, whose code stays this file's, where a class's would not.)
template <class T>
RSD_HD auto load_rows(const T* x, Images images, Plane plane) {
  using A = Acc<T>;
  return [=](int64_t row, int64_t column, int n, A* to) -> const A* {
    const T* from = x + element_of(images, plane.b, plane.c, row, column);
    const int64_t pixel = images.channels_last ? images.channels : 1;
    if (pixel != plane.step) {
      for (int i = 0; i < n; ++i) {
        for (int s = 0; s < plane.step; ++s) to[i * plane.step + s] = widen(from[i * pixel + s]);
      }
      return to;
    }
    if constexpr (std::is_same_v<T, A>) {
      return from;
    } else {
      for (int i = 0; i < n * plane.step; ++i) to[i] = widen(from[i]);
      return to;
    }
  };
}

template <class T>
RSD_HD auto store_rows(T* out, Images images, Plane plane) {
  return [=](int64_t row, int64_t column, int n, const Acc<T>* from) {
    T* to = out + element_of(images, plane.b, plane.c, row, column);
    const int64_t pixel = images.channels_last ? images.channels : 1;
    if (pixel == plane.step) {
      for (int i = 0; i < n * plane.step; ++i) to[i] = narrow<T>(from[i]);
    } else {
      for (int i = 0; i < n; ++i) {
        for (int s = 0; s < plane.step; ++s) to[i * pixel + s] = narrow<T>(from[i * plane.step + s]);
      }
    }
  };
}

// out[i] = taps[0] parts[0][i] + taps[1] parts[1][i] + ..., in this order, for i in [at, at + N). With a vector type
// where there is one: of the same loops over arrays GCC joins the turns of two taps, which it then cannot vectorise.
template <int N, class A>
RSD_HD void weighted_block(A* out, const A* const* parts, const A* taps, int count, int at) {
#ifdef __GNUC__
  if constexpr (N * sizeof(A) % 32 == 0) {
    typedef A Vector __attribute__((vector_size(32)));
    constexpr int kLanes = 32 / sizeof(A), kVectors = N / kLanes;
    Vector total[kVectors], part;
    for (int i = 0; i < kVectors; ++i) {
      std::memcpy(&part, parts[0] + at + i * kLanes, sizeof part);
      total[i] = taps[0] * part;
    }
    for (int t = 1; t < count; ++t) {
      for (int i = 0; i < kVectors; ++i) {
        std::memcpy(&part, parts[t] + at + i * kLanes, sizeof part);
        total[i] = total[i] + taps[t] * part;
      }
    }
    for (int i = 0; i < kVectors; ++i) std::memcpy(out + at + i * kLanes, &total[i], sizeof part);
    return;
  }
#endif
  for (int i = at; i < at + N; ++i) {
    A total = taps[0] * parts[0][i];
    for (int t = 1; t < count; ++t) total = total + taps[t] * parts[t][i];
    out[i] = total;
  }
}

// The same for i in [0, n): all that blurring comes down to. `out` overlaps none of the parts.
template <class A>
RSD_HD void weighted_sum(A* out, const A* const* parts, const A* taps, int count, int n) {
  constexpr int kFew = 32 / sizeof(A), kMany = 4 * kFew;
  int i = 0;
  for (; i + kMany <= n; i += kMany) weighted_block<kMany>(out, parts, taps, count, i);
  for (; i + kFew <= n; i += kFew) weighted_block<kFew>(out, parts, taps, count, i);
  if (i < n && n >= kFew) {
    weighted_block<kFew>(out, parts, taps, count, n - kFew);  // some of them once more
  } else {
    for (; i < n; ++i) weighted_block<1>(out, parts, taps, count, i);
  }
}

// K x, or K^T x where `adjoint`, whose taps are the flipped ones.
template <bool adjoint, class A, class Load, class Store>
RSD_HD void blur_tile(const Taps<A>& taps, int64_t height, int64_t width, int step, Tile tile, const Load& load,
                      const Store& store) {
  constexpr int kRing = 32;  // of rows: a power of two not below kMaxTaps
  constexpr int kLine = kTileNumbers + 4 * kMaxRadius * kInterleaved;
  const int down = taps.rows / 2, across = taps.columns / 2;
  // The adjoint folds sums of `across` columns beyond the border back, which in turn reach as far beyond it.
  const int beyond = adjoint ? across : 0, margin = across + beyond;
  const int64_t begin = tile.column - margin;  // the column that a line starts with
  const int64_t first = tile.column < across ? 0 : tile.column - across;
  const int64_t end = tile.column + tile.columns, last = width - end < across ? width : end + across;
  const int sums = (tile.columns + 2 * beyond) * step, loaded = int(last - first);
  const int offset = int(first - begin) * step;  // of the first column loaded

  alignas(64) A ring[kRing][kLine], line[kLine] = {}, zeros[kLine] = {}, total[kLine], further[kLine];
  const A* rows[kRing];
  const A* parts[kMaxTaps * kMaxTaps];

  const auto extend = [&](A* to) {  // a line's columns beyond the border
    for (int c = 0; c < offset; ++c) to[c] = 0;
    for (int c = offset + loaded * step; c < (tile.columns + 2 * margin) * step; ++c) to[c] = 0;
    if (adjoint) return;
    for (int64_t c = begin; c < 0; ++c) {
      for (int s = 0; s < step; ++s) to[(c - begin) * step + s] = to[(-c - begin) * step + s];
    }
    for (int64_t c = width; c < end + across; ++c) {
      for (int s = 0; s < step; ++s) to[(c - begin) * step + s] = to[(2 * (width - 1) - c - begin) * step + s];
    }
  };
  const auto sum_rows = [&](A* to, int64_t row, int n) {  // of taps.rows rows about `row`, which may lie outside
    int count = 0;
    for (int i = 0; i < taps.rows; ++i) {
      int64_t from = row + i - down;
      if (!adjoint) from = reflect(from, height);
      const A* part = from < 0 || from >= height ? zeros : rows[from % kRing];
      if (taps.separable) {
        parts[count++] = part;
      } else {
        for (int j = 0; j < taps.columns; ++j) parts[count++] = part + j * step;
      }
    }
    weighted_sum(to, parts, taps.v, count, n);
  };
  const auto blur_rows = [&](A* to, int64_t row, int n) {
    sum_rows(to, row, n);
    if (!adjoint) return;
    const int64_t beyond_border[] = {-row, 2 * (height - 1) - row};
    for (const int64_t mirrored : beyond_border) {
      if (!folds(mirrored, height, down)) continue;
      sum_rows(further, mirrored, n);
      for (int c = 0; c < n; ++c) to[c] = to[c] + further[c];
    }
  };
  const auto fold = [&](int64_t from, int64_t to) {  // columns of `total`
    A* sum = total + (beyond - tile.column) * step;
    for (int s = 0; s < step; ++s) sum[to * step + s] = sum[to * step + s] + sum[from * step + s];
  };

  int64_t next = tile.row < down ? 0 : tile.row - down;  // to load
  for (int64_t row = tile.row; row < tile.row + tile.rows; ++row) {
    for (; next < height && next <= row + down; ++next) {
      A* to = ring[next % kRing];
      if (taps.separable) {
        rows[next % kRing] = load(next, first, loaded, to);
      } else {
        const A* from = load(next, first, loaded, to + offset);
        if (from != to + offset) std::memcpy(to + offset, from, size_t(loaded * step) * sizeof(A));
        extend(to);
        rows[next % kRing] = to;
      }
    }
    if (taps.separable) {
      blur_rows(line + offset, row, loaded * step);
      extend(line);
      for (int j = 0; j < taps.columns; ++j) parts[j] = line + j * step;
      weighted_sum(total, parts, taps.v, taps.columns, sums);
    } else {
      blur_rows(total, row, sums);
    }
    if (adjoint) {
      for (int64_t c = -across; c < 0; ++c) {
        if (-c >= tile.column && -c < end) fold(c, -c);
      }
      for (int64_t c = width; c < width + across; ++c) {
        const int64_t to = 2 * (width - 1) - c;
        if (to >= tile.column && to < end) fold(c, to);
      }
    }
    store(row, tile.column, tile.columns, total + beyond * step);
  }
}

// The means of the whole blocks of a line of sums over `rows` rows, and how many there are: with the factor known, they
// vectorise.
template <int factor, class A>
RSD_HD int means_across(const A* __restrict line, A* __restrict means, int columns, int rows) {
  const A pixels = A(rows * factor);
  for (int j = 0; j < columns / factor; ++j) {
    A sum = line[j * factor];
    for (int i = 1; i < factor; ++i) sum = sum + line[j * factor + i];
    means[j] = sum / pixels;
  }
  return columns / factor;
}

// Means over blocks of factor x factor pixels, fewer at the border. [height, width] is the size of the image; the tile
// is one of blocks, at most downsample_columns wide.
template <class A, class Load, class Store>
RSD_HD void downsample_tile(int64_t height, int64_t width, int factor, int step, Tile tile, const Load& load,
                            const Store& store) {
  alignas(64) A buffer[kMaxFactor * kInterleaved], line[kMaxFactor * kInterleaved], total[kMaxFactor * kInterleaved];
  for (int64_t row = tile.row; row < tile.row + tile.rows; ++row) {
    const int rows = block_size(row, height, factor);
    const int64_t first = tile.column * factor, end = first + int64_t(tile.columns) * factor;
    const int columns = int((end < width ? end : width) - first), n = columns * step;
    for (int i = 0; i < rows; ++i) {
      const A* from = load(row * factor + i, first, columns, buffer);
      if (i == 0) {
        for (int c = 0; c < n; ++c) line[c] = from[c];
      } else {
        for (int c = 0; c < n; ++c) line[c] = line[c] + from[c];
      }
    }
    int done = 0;
    if (step == 1 && factor == 2) done = means_across<2>(line, total, columns, rows);
    if (step == 1 && factor == 4) done = means_across<4>(line, total, columns, rows);
    for (int j = done; j < tile.columns; ++j) {
      const int count = block_size(tile.column + j, width, factor);
      const A* from = line + j * factor * step;
      for (int s = 0; s < step; ++s) {
        A sum = from[s];
        for (int i = 1; i < count; ++i) sum = sum + from[i * step + s];
        total[j * step + s] = sum / A(rows * count);
      }
    }
    store(row, tile.column, tile.columns, total);
  }
}

// Its transpose: every pixel of a block gets its share. The tile is again one of blocks.
template <class A, class Load, class Store>
RSD_HD void downsample_adjoint_tile(int64_t height, int64_t width, int factor, int step, Tile tile, const Load& load,
                                    const Store& store) {
  alignas(64) A buffer[kMaxFactor * kInterleaved], line[kMaxFactor * kInterleaved];
  for (int64_t row = tile.row; row < tile.row + tile.rows; ++row) {
    const A* from = load(row, tile.column, tile.columns, buffer);
    const int rows = block_size(row, height, factor);
    int columns = 0;
    for (int j = 0; j < tile.columns; ++j) {
      const int count = block_size(tile.column + j, width, factor);
      for (int s = 0; s < step; ++s) {
        const A share = from[j * step + s] / A(rows * count);
        for (int i = 0; i < count; ++i) line[(columns + i) * step + s] = share;
      }
      columns += count;
    }
    for (int i = 0; i < rows; ++i) store(row * factor + i, tile.column * factor, columns, line);
  }
}

}  // namespace rsd
