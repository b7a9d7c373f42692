// What blur and downsample are on host and device; rsd_fast/ops/{blur,downsample}.py have the mathematics.
#pragma once
#include <stdexcept>

#include "dtype.h"

namespace rsd {

constexpr int kMaxTaps = 31, kMaxRadius = kMaxTaps / 2;  // along an axis

// By value: as an argument of a CUDA kernel the taps need neither a copy to the device nor its wait. Doubles, and
// floats beside the arguments of `observe`, exceed 4 KB, which CUDA passes from 12.1 on.
template <class A>
struct Taps {
  int rows, columns;  // odd
  bool separable;     // v[0, rows) down and then across, rows == columns; else v is [rows, columns]
  A v[kMaxTaps * kMaxTaps];
};

template <class A>
RSD_HD Taps<A> taps_of(const double* kernel, int rows, int columns, bool separable, bool flipped) {
  Taps<A> taps{rows, columns, separable, {}};
  const int count = separable ? rows : rows * columns;
  for (int i = 0; i < count; ++i) taps.v[i] = A(kernel[flipped ? count - 1 - i : i]);
  return taps;
}

// Where a row or column beyond the border of [0, size) reads from; it is beyond by less than size.
RSD_HD int64_t reflect(int64_t at, int64_t size) { return at < 0 ? -at : at < size ? at : 2 * (size - 1) - at; }

// Whether `at` is one of the rows or columns beyond the border that the adjoint folds back.
RSD_HD bool folds(int64_t at, int64_t size, int radius) {
  return (at < 0 && at >= -radius) || (at >= size && at < size + radius);
}

constexpr int kMaxFactor = 256;  // of downsampling

RSD_HD int64_t blocks_of(int64_t size, int factor) { return (size + factor - 1) / factor; }

// Pixels of [0, size) in block `block` along an axis: the last one may be cut.
RSD_HD int block_size(int64_t block, int64_t size, int factor) {
  const int64_t left = size - block * factor;
  return left < factor ? int(left) : factor;
}

// How images are cut: into planes of `step` numbers a pixel, which are one channel of a contiguous image or up to
// kInterleaved neighbouring ones of a channels-last image, and those into tiles.
constexpr int kInterleaved = 4;
constexpr int kTileRows = 64, kTileNumbers = 256;  // of a tile: rows, and numbers of a row

struct Tile {  // of the result, in pixels
  int64_t row, column;
  int rows, columns;
};

// Tiles that a result of `height` x `width` pixels is cut into, of at most kTileRows x `most` pixels, nearly all of one
// size: where several of most >= 64 lie side by side, each is wider than any kernel's radius.
RSD_HD int64_t tiles_of(int64_t height, int64_t width, int most) {
  return (height + kTileRows - 1) / kTileRows * ((width + most - 1) / most);
}

RSD_HD Tile tile_of(int64_t index, int64_t height, int64_t width, int most) {
  const int64_t down = (height + kTileRows - 1) / kTileRows, across = (width + most - 1) / most;
  const int64_t i = index / across, j = index % across;
  const int64_t row = height * i / down, column = width * j / across;
  return {row, column, int(height * (i + 1) / down - row), int(width * (j + 1) / across - column)};
}

// Pixels of a tile's row of a blur, and of a downsampling's result.
RSD_HD int blur_columns(int step) { return kTileNumbers / step; }
RSD_HD int downsample_columns(int factor, int step) { return kMaxFactor * kInterleaved / (factor * step); }

struct Images {  // [batch, channels, height, width], contiguous or channels-last
  int64_t channels, height, width;
  bool channels_last;
};

struct Plane {  // of a sample, from a channel on
  int64_t b, c;
  int step;
};

RSD_HD int64_t planes_of(int64_t channels, bool channels_last) {  // of a sample
  return channels_last ? (channels + kInterleaved - 1) / kInterleaved : channels;
}

RSD_HD int step_of(int64_t channels, bool channels_last) {  // at most
  return !channels_last ? 1 : channels < kInterleaved ? int(channels) : kInterleaved;
}

RSD_HD Plane plane_of(int64_t index, int64_t channels, bool channels_last) {
  const int64_t planes = planes_of(channels, channels_last), b = index / planes, i = index % planes;
  const int64_t c = channels_last ? i * kInterleaved : i;
  return {b, c, step_of(channels - c, channels_last)};
}

RSD_HD int64_t element_of(const Images& images, int64_t b, int64_t c, int64_t row, int64_t column) {
  const int64_t size = images.height * images.width, pixel = row * images.width + column;
  return images.channels_last ? (b * size + pixel) * images.channels + c : (b * images.channels + c) * size + pixel;
}

inline void check_image_type(DType dtype) {
  bool known = false;
  with_dtype(dtype, [&](auto) { known = true; });
  if (!known) throw std::invalid_argument("no kernel for this dtype");
}

}  // namespace rsd
