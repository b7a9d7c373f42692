#include "score_difference_loss_math.h"
#include "sum.h"

namespace rsd::RSD_ISA {

void score_difference_loss(const ScoreDifferenceLossArgs& a, int64_t begin, int64_t end) {
  with_types(a.raw_dtype, a.dtype, [&](auto raw, auto image) {
    using T = decltype(raw);
    using A = decltype(image);
    alignas(64) A mask[kBlock];
    for (int64_t i = 0; i < kBlock; ++i) mask[i] = 1;
    for (int64_t b = begin; b < end; ++b) {
      const ScoreDifferenceLoss<A> of = score_difference_loss_of<A>(a, b);
      double totals[2] = {};
      for_blocks(a.inner, [&](int64_t first, int64_t n) {
        const int64_t at = b * a.inner + first;
        const T* __restrict F_teacher = static_cast<const T*>(a.F_teacher) + at;
        const T* __restrict F_fake = static_cast<const T*>(a.F_fake) + at;
        const A* __restrict u_t = static_cast<const A*>(a.u_t) + at;
        const A* __restrict u = static_cast<const A*>(a.u) + at;
        if (a.mask.data != nullptr) load_mask(mask, a.mask, b, first, n);
        add_block<2, A>(totals, n, [&](int64_t i, A(&sums)[2][kSums], int l) {
          const ScoreDifference<A> x = of.difference(widen(F_teacher[i]), widen(F_fake[i]), u_t[i], u[i]);
          const A d = x.d * mask[i], r = x.r * mask[i];
          sums[0][l] += of.term({d, r});
          sums[1][l] += r < 0 ? -r : r;
        });
      });
      const double weight = score_weight(totals[1], a.inner);
      static_cast<A*>(a.weight)[b] = A(weight);
      static_cast<A*>(a.loss)[b] = A(weight * totals[0]);
    }
  });
}

void score_difference_loss_backward(const ScoreDifferenceLossArgs& a, int64_t begin, int64_t end) {
  with_types(a.raw_dtype, a.dtype, [&](auto raw, auto image) {
    using T = decltype(raw);
    using A = decltype(image);
    alignas(64) A mask[kBlock], spare[2][kBlock];
    alignas(64) T spare_raw[2][kBlock];
    for (int64_t i = 0; i < kBlock; ++i) mask[i] = 1;
    for (int64_t b = begin; b < end; ++b) {
      const ScoreDifferenceLoss<A> of = score_difference_loss_of<A>(a, b);
      const A scale = static_cast<const A*>(a.grad)[b * a.grad_stride] * static_cast<const A*>(a.weight)[b];
      for_blocks(a.inner, [&](int64_t first, int64_t n) {
        const int64_t at = b * a.inner + first;
        const T* __restrict F_teacher = static_cast<const T*>(a.F_teacher) + at;
        const T* __restrict F_fake = static_cast<const T*>(a.F_fake) + at;
        const A* __restrict u_t = static_cast<const A*>(a.u_t) + at;
        const A* __restrict u = static_cast<const A*>(a.u) + at;
        // One loop whatever is asked for: what is not goes to a block that stays in the cache.
        T* __restrict grad_F_teacher = a.grad_F_teacher ? static_cast<T*>(a.grad_F_teacher) + at : spare_raw[0];
        T* __restrict grad_F_fake = a.grad_F_fake ? static_cast<T*>(a.grad_F_fake) + at : spare_raw[1];
        A* __restrict grad_u_t = a.grad_u_t ? static_cast<A*>(a.grad_u_t) + at : spare[0];
        A* __restrict grad_u = a.grad_u ? static_cast<A*>(a.grad_u) + at : spare[1];
        if (a.mask.data != nullptr) load_mask(mask, a.mask, b, first, n);
        RSD_NO_ALIAS  // of so many pointers compilers compare no pairs
        for (int64_t i = 0; i < n; ++i) {
          const ScoreDifference<A> x = of.difference(widen(F_teacher[i]), widen(F_fake[i]), u_t[i], u[i]);
          const ScoreGradients<A> g = of.gradients({x.d * mask[i], x.r * mask[i]}, scale * mask[i]);
          grad_F_teacher[i] = narrow<T>(g.F_teacher);
          grad_F_fake[i] = narrow<T>(g.F_fake);
          grad_u_t[i] = g.u_t;
          grad_u[i] = g.u;
        }
      });
    }
  });
}

}  // namespace rsd::RSD_ISA
