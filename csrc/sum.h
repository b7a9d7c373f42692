// Sums over a sample on the CPU: side by side in blocks, blocks in double. One order whatever the vector length and the
// number of threads.
#pragma once
#include "mask.h"

namespace rsd {

constexpr int kBlock = 1024;
constexpr int kSums = 32;  // side by side: a multiple of every vector length

// Calls f(first, n) for the blocks of a sample.
template <class Function>
RSD_HD void for_blocks(int64_t inner, const Function& f) {
  for (int64_t first = 0; first < inner; first += kBlock) f(first, inner - first < kBlock ? inner - first : kBlock);
}

// add(i, sums, l) adds the terms of element i < n, n <= kBlock, to sum l of each kind; totals are those of the kinds.
template <int kinds, class A, class Add>
RSD_HD void add_block(double (&totals)[kinds], int64_t n, const Add& add) {
  alignas(64) A sums[kinds][kSums] = {};
  int64_t i = 0;
  for (; i + kSums <= n; i += kSums) {
    for (int l = 0; l < kSums; ++l) add(i + l, sums, l);
  }
  for (int l = 0; i + l < n; ++l) add(i + l, sums, l);
  for (int k = 0; k < kinds; ++k) {
    for (int l = 0; l < kSums; ++l) totals[k] += double(sums[k][l]);
  }
}

// The mask of elements first to first + n of sample b, in the images' memory order.
template <class A>
RSD_HD void load_mask(A* __restrict out, const MaskArgs& mask, int64_t b, int64_t first, int64_t n) {
  const int64_t inner = mask.channels_last ? mask.channels : mask.pixels;
  const int64_t stride = mask.channels_last ? mask.channel_stride : mask.pixel_stride;
  for (int64_t i = 0; i < n;) {  // runs within the innermost dimension
    const int64_t start = mask.offset(b, first + i), left = inner - (first + i) % inner;
    const int64_t run = left < n - i ? left : n - i;
    if (mask.dtype == kUInt8) {
      const uint8_t* from = static_cast<const uint8_t*>(mask.data) + start;
      for (int64_t j = 0; j < run; ++j) out[i + j] = A(from[j * stride]);
    } else {
      const A* from = static_cast<const A*>(mask.data) + start;
      for (int64_t j = 0; j < run; ++j) out[i + j] = from[j * stride];
    }
    i += run;
  }
}

}  // namespace rsd
