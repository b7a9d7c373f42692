// Element types: load in T, compute in Acc<T>, store in T.
#pragma once
#include <cstdint>
#include <cstring>
#include <type_traits>

// Functions of these headers are inlined wherever they are used: a CPU kernel's file is compiled once for every
// instruction set, and a copy made for one must never serve another.
#ifdef __CUDACC__
#include <cuda_fp16.h>
#define RSD_HD_MEMBER __host__ __device__ __forceinline__
#define RSD_HD RSD_HD_MEMBER
#elif defined(_MSC_VER)
#define RSD_HD_MEMBER __forceinline
#define RSD_HD static RSD_HD_MEMBER
#else
#define RSD_HD_MEMBER inline __attribute__((always_inline))
#define RSD_HD static RSD_HD_MEMBER
#endif

namespace rsd {

enum DType : int { kFloat32 = 0, kFloat64 = 1, kBFloat16 = 2, kFloat16 = 3, kUInt8 = 4 };  // as in ops/native/launch.py

struct BFloat16 {
  uint16_t bits;
};

struct Float16 {
  uint16_t bits;
};

// The type in which T is computed with: double for double (so that gradcheck works), else float.
template <class T>
struct AccOf {
  using type = float;
};
template <>
struct AccOf<double> {
  using type = double;
};
template <class T>
using Acc = typename AccOf<T>::type;

template <class To, class From>
RSD_HD To bit_cast(From from) {
  static_assert(sizeof(To) == sizeof(From));
  To to;
  std::memcpy(&to, &from, sizeof to);
  return to;
}

RSD_HD float widen(float x) { return x; }
RSD_HD double widen(double x) { return x; }
RSD_HD float widen(uint8_t x) { return float(x); }
RSD_HD float widen(BFloat16 x) { return bit_cast<float>(uint32_t(x.bits) << 16); }
RSD_HD float widen(Float16 x) {
#ifdef __CUDA_ARCH__
  return __half2float(__ushort_as_half(x.bits));
#else
  // The exponent is rebiased by a multiplication, which makes subnormals right too; infinity and NaN keep theirs.
  const uint32_t magnitude = uint32_t(x.bits & 0x7FFFu) << 13;
  const uint32_t finite = bit_cast<uint32_t>(bit_cast<float>(magnitude) * 0x1p112f);
  const uint32_t special = magnitude | 0x7F800000u;
  return bit_cast<float>((magnitude >= 0x0F800000u ? special : finite) | uint32_t(x.bits & 0x8000u) << 16);
#endif
}

RSD_HD BFloat16 to_bfloat16(float x) {
  const uint32_t bits = bit_cast<uint32_t>(x);
  const uint32_t rounded = (bits + 0x7FFFu + (bits >> 16 & 1u)) >> 16;
  return {uint16_t((bits & 0x7FFFFFFFu) > 0x7F800000u ? (bits >> 16 | 0x40u) : rounded)};
}

RSD_HD Float16 to_float16(float x) {
#ifdef __CUDA_ARCH__
  return {__half_as_ushort(__float2half_rn(x))};
#else
  const uint32_t bits = bit_cast<uint32_t>(x), magnitude = bits & 0x7FFFFFFFu;
  const uint32_t normal = (magnitude + 0xFFFu + (magnitude >> 13 & 1u) - 0x38000000u) >> 13;
  // Below 2^-14: adding 1/2 leaves the rounded subnormal in the low bits of the sum.
  const uint32_t subnormal = bit_cast<uint32_t>(bit_cast<float>(magnitude) + 0.5f) - 0x3F000000u;
  const uint32_t infinite = magnitude > 0x7F800000u ? 0x7E00u : 0x7C00u;
  const uint32_t finite = magnitude < 0x38800000u ? subnormal : normal;
  return {uint16_t((magnitude >= 0x477FF000u ? infinite : finite) | (bits >> 16 & 0x8000u))};
#endif
}

// Calls f(T{}) for the floating-point type that dtype names.
template <class Function>
void with_dtype(DType dtype, const Function& f) {
  if (dtype == kFloat32) return f(float{});
  if (dtype == kFloat64) return f(double{});
  if (dtype == kBFloat16) return f(BFloat16{});
  if (dtype == kFloat16) return f(Float16{});
}

// Rounded to the nearest, ties to even.
template <class T, class A>
RSD_HD T narrow(A x) {
  if constexpr (std::is_same_v<T, BFloat16>) {
    return to_bfloat16(x);
  } else if constexpr (std::is_same_v<T, Float16>) {
    return to_float16(x);
  } else {
    return x;
  }
}

}  // namespace rsd
