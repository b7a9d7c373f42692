#pragma once
#include "denoising_loss.h"
#include "edm.h"

namespace rsd {

// What of a sample's loss its noise levels decide.
template <class A>
struct DenoisingLoss {
  A c_skip, c_out, keep, weight;  // keep = 1 - sigma_obs^2 / sigma^2

  // h - y, without the cancellation of r x_t near sigma_obs.
  RSD_HD_MEMBER A error(A F, A x_t, A y) const {
    const A D = c_skip * x_t + c_out * F;
    return keep * (D - x_t) + (x_t - y);
  }
  // dloss/dF = slope mask^2 error
  RSD_HD_MEMBER A slope() const { return A(2) * weight * keep * c_out; }
};

template <class A>
RSD_HD DenoisingLoss<A> denoising_loss_of(const DenoisingLossArgs& a, int64_t b) {
  const A sigma = static_cast<const A*>(a.sigma)[b * a.sigma_stride];
  const A sigma_obs = static_cast<const A*>(a.sigma_obs)[b * a.sigma_obs_stride], ratio = sigma_obs / sigma;
  const Edm<A> c = edm(sigma, A(a.sigma_data));
  return {c.c_skip, c.c_out, A(1) - ratio * ratio, c.weight};
}

}  // namespace rsd
