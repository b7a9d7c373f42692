#pragma once
#include "edm.h"
#include "observe.h"

namespace rsd {

RSD_HD float from_uint8(uint8_t v) { return float(v) / 127.5f - 1.0f; }

// What of a sample's noise its levels decide.
template <class A>
struct Noising {
  A sigma_obs, scale, c_in;  // scale = sqrt(sigma^2 - sigma_obs^2)
};

template <class A>
RSD_HD Noising<A> noising_of(const ObserveArgs& a, int64_t b) {
  const A sigma_obs = static_cast<const A*>(a.sigma_obs)[b * a.sigma_obs_stride];
  if (a.sigma == nullptr) return {sigma_obs, 0, 0};
  const A sigma = static_cast<const A*>(a.sigma)[b * a.sigma_stride];
  const A variance = sigma * sigma - sigma_obs * sigma_obs;  // sigma and sigma_obs may be equal up to rounding
  return {sigma_obs, std::sqrt(variance < 0 ? A(0) : variance), edm(sigma, A(a.sigma_data)).c_in};
}

}  // namespace rsd
