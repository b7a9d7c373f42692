// Images in memory as the functors that the linear operators' kernels read from and write to, so that other kernels can
// normalise or add noise on the way:
//
//     A load(int64_t b, int64_t c, int64_t row, int64_t column)
//     void store(int64_t b, int64_t c, int64_t row, int64_t column, const A (&values)[4], int n)
//
// A thread stores the n <= 4 values of neighbouring columns, the first of them a multiple of 4.
#pragma once
#include "linear.h"

namespace rsd {

template <class T>
struct LoadImage {
  const T* x;
  Images images;
  __device__ __forceinline__ Acc<T> operator()(int64_t b, int64_t c, int64_t row, int64_t column) const {
    return widen(x[element_of(images, b, c, row, column)]);
  }
};

template <class T>
struct StoreImage {
  T* out;
  Images images;
  __device__ __forceinline__ void operator()(int64_t b, int64_t c, int64_t row, int64_t column,
                                             const Acc<T> (&values)[4], int n) const {
    const int64_t at = element_of(images, b, c, row, column), pixel = images.channels_last ? images.channels : 1;
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      if (i < n) out[at + i * pixel] = narrow<T>(values[i]);
    }
  }
};

}  // namespace rsd
