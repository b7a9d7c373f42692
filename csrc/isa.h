// Instruction sets of the CPU kernels. Every *_cpu.cpp is compiled once for each, RSD_ISA being its name; the one to
// run is chosen when the extension is loaded.
//
// A kernel `op` of Args is a function of a range of its work, which may not throw, allocate or start threads:
//
//   in op.h:        RSD_CPU_KERNEL(op, OpArgs);            Args has work() and grain()
//   in op_cpu.cpp:  void op(const OpArgs&, int64_t begin, int64_t end)      in namespace rsd::RSD_ISA
//
// Standard-library templates stay out of these files: the linker keeps one copy of each for the whole program, and it
// may be one that this processor cannot run.
#pragma once
#include "parallel.h"

#if defined(__x86_64__) && !defined(_MSC_VER)
#define RSD_X86 1
#else
#define RSD_X86 0
#endif

namespace rsd {

enum Isa : int { kBaseline = 0, kAvx2 = 1, kAvx512 = 2 };

Isa isa();  // the best that this processor has, or the one that RSD_FAST_ISA names
const char* isa_name(Isa);

template <class Args>
void run_cpu(const Args& args, int threads, void (*kernel)(const Args&, int64_t, int64_t)) {
  parallel_for(args.work(), args.grain(), threads, [&](int64_t begin, int64_t end) { kernel(args, begin, end); });
}

#if RSD_X86
#define RSD_CPU_KERNEL(op, Args)                                                                      \
  namespace baseline {                                                                                \
  void op(const Args&, int64_t begin, int64_t end);                                                   \
  }                                                                                                   \
  namespace avx2 {                                                                                    \
  void op(const Args&, int64_t begin, int64_t end);                                                   \
  }                                                                                                   \
  namespace avx512 {                                                                                  \
  void op(const Args&, int64_t begin, int64_t end);                                                   \
  }                                                                                                   \
  inline void op##_cpu(const Args& args, int threads) {                                               \
    run_cpu(args, threads, isa() == kAvx512 ? avx512::op : isa() == kAvx2 ? avx2::op : baseline::op); \
  }                                                                                                   \
  static_assert(true)
#else
#define RSD_CPU_KERNEL(op, Args)                                                                \
  namespace baseline {                                                                          \
  void op(const Args&, int64_t begin, int64_t end);                                             \
  }                                                                                             \
  inline void op##_cpu(const Args& args, int threads) { run_cpu(args, threads, baseline::op); } \
  static_assert(true)
#endif

}  // namespace rsd
