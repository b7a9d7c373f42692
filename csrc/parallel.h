// Threads for the CPU kernels.
#pragma once
#include <algorithm>
#include <cstdint>
#include <system_error>
#include <thread>
#include <vector>

namespace rsd {

// Call f(begin, end) over [0, count) in at most `threads` pieces of at least `grain` each; f must not throw.
// Plain threads, started per call: unlike an OpenMP pool beside torch's own they survive a fork, and starting
// one costs some 20 us, so choose grain to be worth 100 us at the least.
template <class F>
void parallel_for(int64_t count, int64_t grain, int threads, const F& f) {
  const int64_t pieces = std::max<int64_t>(1, std::min<int64_t>(threads, count / grain));
  const int64_t size = (count + pieces - 1) / pieces;
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
}

}  // namespace rsd
