// 16-byte accesses: kPack elements of any type at a time.
#pragma once
#include "dtype.h"
#include "mask.h"

namespace rsd {

constexpr int kPack = 8;

template <class T>
struct alignas(16) Pack {
  T v[kPack];
};
static_assert(sizeof(Pack<uint16_t>) == 16);

template <class T>
__device__ __forceinline__ Pack<T> load_pack(const T* from) {  // 16-byte aligned
  Pack<T> pack;
#pragma unroll
  for (size_t i = 0; i < sizeof(Pack<T>) / 16; ++i)
    reinterpret_cast<uint4*>(&pack)[i] = __ldg(reinterpret_cast<const uint4*>(from) + i);
  return pack;
}

template <class T>
__device__ __forceinline__ void store_pack(T* to, const Pack<T>& pack) {
#pragma unroll
  for (size_t i = 0; i < sizeof(Pack<T>) / 16; ++i)
    __stcg(reinterpret_cast<uint4*>(to) + i, reinterpret_cast<const uint4*>(&pack)[i]);  // a plain one may be split
}

// Whether every sample of [batch, inner] starts 16-byte aligned in each of these tensors, null ones aside, for
// elements of 2 bytes and more. Not in double, which serves only gradcheck and would spill registers.
template <class A, class... Pointers>
bool packs(int64_t inner, Pointers... pointers) {
  return sizeof(A) == 4 && inner % kPack == 0 && ((reinterpret_cast<uintptr_t>(pointers) % 16 == 0) && ...);
}

// The mask of kPack elements of sample b, ones where there is no mask.
template <class A>
__device__ __forceinline__ Pack<A> mask_pack(const MaskArgs& mask, int64_t b, int64_t first) {
  Pack<A> pack;
#pragma unroll
  for (int j = 0; j < kPack; ++j) pack.v[j] = 1;
  if (mask.data == nullptr) return pack;
  const uint32_t inner = uint32_t(mask.channels_last ? mask.channels : mask.pixels);
  const int64_t stride = mask.channels_last ? mask.channel_stride : mask.pixel_stride;
  const int64_t outer_stride = mask.channels_last ? mask.pixel_stride : mask.channel_stride;
  uint32_t outer = uint32_t(first) / inner, at = uint32_t(first) % inner;  // a sample has fewer than 2^32 elements
#pragma unroll
  for (int j = 0; j < kPack; ++j) {
    pack.v[j] = mask_at<A>(mask, b * mask.batch_stride + outer * outer_stride + at * stride);
    if (++at == inner) at = 0, ++outer;
  }
  return pack;
}

}  // namespace rsd
