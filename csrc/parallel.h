// Threads for the CPU kernels.
#pragma once
#include <algorithm>
#include <cstdint>

#ifndef _OPENMP
#include <system_error>
#include <thread>
#include <vector>
#endif

namespace rsd {

// Call f(begin, end) over [0, count) in at most `threads` pieces of at least `grain` each; f must not throw.
//
// With OpenMP the pieces are PyTorch's own threads wherever the two share a libgomp, which costs microseconds. Without,
// threads are started for each call, some 20 us each, and on a virtual machine whose processors sleep 20 times that:
// choose grain to be worth 100 us at the least.
template <class F>
void parallel_for(int64_t count, int64_t grain, int threads, const F& f) {
  const int64_t pieces = std::max<int64_t>(1, std::min<int64_t>(threads, count / grain));
  const int64_t size = (count + pieces - 1) / pieces;
  if (pieces == 1) return f(0, count);
#ifdef _OPENMP
#pragma omp parallel for num_threads(int(pieces)) schedule(static, 1)
  for (int64_t i = 0; i < pieces; ++i) {
    if (i * size < count) f(i * size, std::min(count, (i + 1) * size));
  }
#else
  std::vector<std::thread> pool;
  pool.reserve(size_t(pieces - 1));
  int64_t begin = 0;
  try {
    for (; int64_t(pool.size()) + 1 < pieces; begin += size) {
      pool.emplace_back([&f, begin, end = std::min(begin + size, count)] { f(begin, end); });
    }
  } catch (const std::system_error&) {  // no more threads to be had: this one does what is left
  }
  if (begin < count) f(begin, count);
  for (std::thread& thread : pool) thread.join();
#endif
}

}  // namespace rsd
