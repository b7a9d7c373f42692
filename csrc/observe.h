// y = A(x) + sigma_obs eps, then x_t = y + sqrt(sigma^2 - sigma_obs^2) n and c_in x_t, each part on demand.
// rsd_fast/ops/observe.py and perturb.py have the mathematics.
#pragma once
#include "dtype.h"
#include "isa.h"

namespace rsd {

enum Operator : int { kIdentity = 0, kMask = 1, kBlur = 2, kDownsample = 3 };  // KINDS of rsd_fast/ops/observe.py

struct ObserveArgs {
  const void* images;  // [batch, channels, in_height, in_width] uint8, read as v / 127.5 - 1, or dtype
  // Counters, [batch], their strides apart.
  const int64_t *index,
      *observation_step;          // of the observation's noise and, at step 0, of its mask; null: observed already
  const int64_t *sample, *step;   // of the diffusion noise; null: no perturbation
  const void *sigma_obs, *sigma;  // [batch] dtype; sigma null with sample
  const double* kernel;           // of kBlur, as in blur.h
  void* y;                        // [batch, channels, height, width] dtype; null where not wanted
  void* x_t;                      // likewise
  void* net_input;                // likewise, net_dtype
  uint8_t* mask;  // [batch, mask_channels, pixels], or a bit for each, [batch, ceil(mask_channels pixels / 8)]; or null
  int64_t batch, channels, in_height, in_width, height, width;
  int64_t index_stride, observation_step_stride, sample_stride, step_stride, sigma_obs_stride, sigma_stride;
  uint64_t seed, noise_seed, threshold;  // a pixel is kept where its random word is at least the threshold
  double sigma_data;
  int kernel_rows, kernel_columns, factor;
  Operator kind;
  DType images_dtype, dtype, net_dtype;
  bool separable, shared, packed, images_channels_last, channels_last;

  RSD_HD_MEMBER int64_t pixels() const { return height * width; }
  RSD_HD_MEMBER int64_t mask_elements() const { return (shared ? 1 : channels) * pixels(); }
  int64_t work() const { return batch; }
  int64_t grain() const { return 1 + 16384 / (channels * pixels() + 1); }
};

RSD_CPU_KERNEL(observe, ObserveArgs);
#ifdef RSD_WITH_CUDA
void observe_cuda(const ObserveArgs&, int device, void* stream);
#endif

}  // namespace rsd
