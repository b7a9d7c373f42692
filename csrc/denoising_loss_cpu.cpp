#include "denoising_loss_math.h"
#include "sum.h"

namespace rsd::RSD_ISA {

void denoising_loss(const DenoisingLossArgs& a, int64_t begin, int64_t end) {
  with_types(a.raw_dtype, a.dtype, [&](auto raw, auto image) {
    using T = decltype(raw);
    using A = decltype(image);
    alignas(64) A mask[kBlock];
    for (int64_t i = 0; i < kBlock; ++i) mask[i] = 1;
    for (int64_t b = begin; b < end; ++b) {
      const DenoisingLoss<A> of = denoising_loss_of<A>(a, b);
      double sum[1] = {};
      for_blocks(a.inner, [&](int64_t first, int64_t n) {
        const int64_t at = b * a.inner + first;
        const T* __restrict F = static_cast<const T*>(a.F) + at;
        const A* __restrict x_t = static_cast<const A*>(a.x_t) + at;
        const A* __restrict y = static_cast<const A*>(a.y) + at;
        if (a.mask.data != nullptr) load_mask(mask, a.mask, b, first, n);
        add_block<1, A>(sum, n, [&](int64_t i, A(&sums)[1][kSums], int l) {
          const A error = of.error(widen(F[i]), x_t[i], y[i]) * mask[i];
          sums[0][l] += error * error;
        });
      });
      static_cast<A*>(a.loss)[b] = A(double(of.weight) * sum[0]);
    }
  });
}

void denoising_loss_backward(const DenoisingLossArgs& a, int64_t begin, int64_t end) {
  with_types(a.raw_dtype, a.dtype, [&](auto raw, auto image) {
    using T = decltype(raw);
    using A = decltype(image);
    alignas(64) A mask[kBlock];
    for (int64_t b = begin; b < end; ++b) {
      const DenoisingLoss<A> of = denoising_loss_of<A>(a, b);
      const A slope = static_cast<const A*>(a.grad)[b * a.grad_stride] * of.slope();
      for_blocks(a.inner, [&](int64_t first, int64_t n) {
        const int64_t at = b * a.inner + first;
        const T* __restrict F = static_cast<const T*>(a.F) + at;
        const A* __restrict x_t = static_cast<const A*>(a.x_t) + at;
        const A* __restrict y = static_cast<const A*>(a.y) + at;
        T* __restrict grad_F = static_cast<T*>(a.grad_F) + at;
        if (a.mask.data == nullptr) {
          for (int64_t i = 0; i < n; ++i) grad_F[i] = narrow<T>(slope * of.error(widen(F[i]), x_t[i], y[i]));
        } else {
          load_mask(mask, a.mask, b, first, n);
          for (int64_t i = 0; i < n; ++i)
            grad_F[i] = narrow<T>(slope * mask[i] * (mask[i] * of.error(widen(F[i]), x_t[i], y[i])));
        }
      });
    }
  });
}

}  // namespace rsd::RSD_ISA
