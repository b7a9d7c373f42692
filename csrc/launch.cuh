// Launching: a grid sized to the device over numbered tasks, whose results do not depend on that size.
#pragma once
#include <algorithm>

#include "cuda_check.h"
#include "dtype.h"

namespace rsd {

constexpr int kThreads = 256;  // of every block whose op does not say otherwise
constexpr int kBlocksPerProcessor = 8;

// As many blocks as the device runs at once, and no more than there are tasks. A kernel's loop:
//     for (int64_t task = blockIdx.x; task < tasks; task += gridDim.x)
inline unsigned grid_size(int64_t tasks, int device, int blocks_per_processor = kBlocksPerProcessor) {
  int processors = 0;
  RSD_CUDA_CHECK(cudaDeviceGetAttribute(&processors, cudaDevAttrMultiProcessorCount, device), "grid size");
  return unsigned(std::min<int64_t>(tasks, int64_t(processors) * blocks_per_processor));
}

}  // namespace rsd
