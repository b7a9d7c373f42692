// Elementary functions that vectorise, which the library's do not, and that are the same on every instruction set where
// fused multiply-adds are not allowed.
#pragma once
#include <cmath>

#include "dtype.h"

namespace rsd {

// e^x within 2 units in the last place, x clamped to [-87, 87], where the result is a normal number. The clamp is one
// of integers, which compilers turn into a minimum and never into a branch, at the cost that NaN counts as 87.
// x = k ln 2 + r with k an integer and |r| <= ln(2) / 2; e^r = 1 + r + r^2 q(r), q of degree 4 a minimax fit of the
// relative error (3e-9); k goes into the exponent. ln 2 is in two parts, the first with few enough bits that k times
// it is exact.
RSD_HD float exp(float x) {
  const uint32_t bits = bit_cast<uint32_t>(x), magnitude = bits & 0x7FFFFFFFu, most = 0x42AE0000u;  // 87
  x = bit_cast<float>((magnitude < most ? magnitude : most) | (bits & 0x80000000u));
  const float shifted = x * 1.44269504f + 0x1.8p23f;  // rounds to an integer, which is left in the low bits
  const float k = shifted - 0x1.8p23f;
  const float r = (x - k * 0x1.62e4p-1f) - k * 0x1.7f7d1cp-20f;
  float q = r * 0.00138206617f + 0.00836867467f;
  q = q * r + 0.0416682661f;
  q = q * r + 0.166665211f;
  q = q * r + 0.49999994f;
  const float e = (r * r * q + r) + 1.0f;
  return bit_cast<float>(bit_cast<uint32_t>(e) + (bit_cast<uint32_t>(shifted) << 23));
}

RSD_HD double exp(double x) { return std::exp(x); }

}  // namespace rsd
