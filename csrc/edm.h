// EDM preconditioning (Karras et al. 2022, table 1), host and device; rsd_fast/ops/edm.py has the mathematics.
#pragma once
#include <cmath>

#include "dtype.h"

namespace rsd {

template <class A>
struct Edm {
  A c_skip, c_out, c_in, weight;
};

template <class A>
RSD_HD Edm<A> edm(A sigma, A sigma_data) {
  const A variance = sigma * sigma + sigma_data * sigma_data, root = std::sqrt(variance), product = sigma * sigma_data;
  return {sigma_data * sigma_data / variance, product / root, 1 / root, variance / (product * product)};
}

}  // namespace rsd
