#pragma once
#include "edm.h"
#include "score_difference_loss.h"

namespace rsd {

template <class A>
struct ScoreDifference {
  A d, r;  // f - g and f - u, masked
};

template <class A>
struct ScoreGradients {
  A F_teacher, F_fake, u_t, u;
};

// What of a sample's loss its noise level decides.
template <class A>
struct ScoreDifferenceLoss {
  A c_skip, c_out, alpha;

  RSD_HD_MEMBER ScoreDifference<A> difference(A F_teacher, A F_fake, A u_t, A u) const {
    return {c_out * (F_teacher - F_fake), c_skip * u_t + c_out * F_teacher - u};
  }
  RSD_HD_MEMBER A term(ScoreDifference<A> x) const { return x.d * (x.r - alpha * x.d); }
  // scale = upstream gradient, weight and mask.
  RSD_HD_MEMBER ScoreGradients<A> gradients(ScoreDifference<A> x, A scale) const {
    const A by_teacher = x.r + (A(1) - A(2) * alpha) * x.d, by_fake = A(2) * alpha * x.d - x.r;
    return {c_out * scale * by_teacher, c_out * scale * by_fake, c_skip * scale * x.d, -scale * x.d};
  }
};

template <class A>
RSD_HD ScoreDifferenceLoss<A> score_difference_loss_of(const ScoreDifferenceLossArgs& a, int64_t b) {
  const Edm<A> c = edm(static_cast<const A*>(a.sigma)[b * a.sigma_stride], A(a.sigma_data));
  return {c.c_skip, c.c_out, A(a.alpha)};
}

// w of a sample, from the sum of |r|.
template <class A>
RSD_HD A score_weight(A sum, int64_t inner) {
  const A mean = sum / A(inner);
  return A(1) / (mean < A(1e-5) ? A(1e-5) : mean);
}

}  // namespace rsd
