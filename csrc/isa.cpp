#include "isa.h"

#include <cstdlib>
#include <stdexcept>
#include <string>

namespace rsd {
namespace {

constexpr const char* kNames[] = {"baseline", "avx2", "avx512"};

Isa best() {
#if RSD_X86
  __builtin_cpu_init();
  const auto has_avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") &&
                        __builtin_cpu_supports("bmi") && __builtin_cpu_supports("bmi2");
  if (has_avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
      __builtin_cpu_supports("avx512cd") && __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl"))
    return kAvx512;
  if (has_avx2) return kAvx2;
#endif
  return kBaseline;
}

Isa choose() {
  const Isa most = best();
  const char* forced = std::getenv("RSD_FAST_ISA");
  if (forced == nullptr || *forced == 0) return most;
  for (int i = kBaseline; i <= most; ++i) {
    if (std::string(forced) == kNames[i]) return Isa(i);
  }
  throw std::invalid_argument(std::string("RSD_FAST_ISA: expected baseline to ") + kNames[most] +
                              " on this processor, got " + forced);
}

}  // namespace

Isa isa() {
  static const Isa chosen = choose();
  return chosen;
}

const char* isa_name(Isa which) { return kNames[which]; }

}  // namespace rsd
