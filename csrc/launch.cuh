// Launching: a grid sized to the device over numbered tasks, whose results do not depend on that size.
#pragma once
#include <algorithm>
#include <cstddef>
#include <type_traits>

#include "cuda_check.h"
#include "elements.h"

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

// Launches select(T{}, A{}), a kernel over the chunks of [batch, inner], for the element types of `a` and, where a
// sample is not one chunk, finish(A{}) over the samples behind it; null: there is nothing to finish.
template <class Args, class Select, class Finish = std::nullptr_t>
void launch_chunks(const Args& a, int device, void* stream, const Select& select, const Finish& finish = nullptr) {
  const int64_t chunks = chunks_of(a.inner), tasks = a.batch * chunks;
  if (a.batch == 0) return;
  check_types(a.raw_dtype, a.dtype);
  DeviceGuard guard(device);
  const auto queue = static_cast<cudaStream_t>(stream);
  with_types(a.raw_dtype, a.dtype, [&](auto raw, auto image) {
    const auto kernel = select(raw, image);
    if (tasks > 0) kernel<<<grid_size(tasks, device), kThreads, 0, queue>>>(a, tasks);
    if constexpr (!std::is_null_pointer_v<Finish>) {
      const auto last = finish(image);
      if (chunks != 1) last<<<unsigned((a.batch + kThreads - 1) / kThreads), kThreads, 0, queue>>>(a);
    }
  });
}

}  // namespace rsd
