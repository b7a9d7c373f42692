// The only file that knows Python. A kernel is called as
//
//     _C.cpu.op(threads, field=value, ...)        _C.cuda.op(device, stream, field=value, ...)
//
// with fields of its Args: tensors as addresses, which rsd_fast/ops/native/launch.py has taken, dtypes as DType, an
// Args within Args as a dict. A field that is not passed is 0, and one that Args does not have raises TypeError.
#include <pybind11/pybind11.h>

#include <string>
#include <type_traits>

#include "blur.h"
#include "denoise.h"
#include "denoising_loss.h"
#include "downsample.h"
#include "group_norm_silu.h"
#include "observe.h"
#include "perturb_backward.h"
#include "philox.h"
#include "score_difference_loss.h"

namespace py = pybind11;

namespace {

template <class Args>
Args make(const py::dict& values);

template <class T>
void set(T& field, py::handle value) {
  if constexpr (std::is_pointer_v<T>) {
    field = reinterpret_cast<T>(value.cast<std::uintptr_t>());
  } else if constexpr (std::is_enum_v<T>) {
    field = T(value.cast<int>());
  } else if constexpr (std::is_class_v<T>) {
    field = make<T>(value.cast<py::dict>());
  } else {
    field = value.cast<T>();
  }
}

template <class Args>
[[noreturn]] void throw_unknown_field(const py::dict& values) {
  py::set unknown(values);
  Args{}.each_field([&](const char* name, auto&) { unknown.attr("discard")(name); });
  throw py::type_error("unknown field: " + std::string(py::str(py::str(", ").attr("join")(unknown))));
}

template <class Args>
Args make(const py::dict& values) {
  Args args{};
  size_t count = 0;
  args.each_field([&](const char* name, auto& field) {
    if (const py::handle value = PyDict_GetItemString(values.ptr(), name)) {
      set(field, value);
      ++count;
    }
  });
  if (count != values.size()) throw_unknown_field<Args>(values);
  return args;
}

struct Modules {
  py::module_ cpu;
  py::object cuda;  // None where not built
};

template <class Args>
using CpuKernel = void (*)(const Args&, int threads);
template <class Args>
using CudaKernel = void (*)(const Args&, int device, void* stream);

template <class Args>
void expose(Modules& modules, const char* name, CpuKernel<Args> cpu, CudaKernel<Args> cuda = nullptr) {
  modules.cpu.def(name, [cpu](int threads, const py::kwargs& values) {
    const Args args = make<Args>(values);
    const py::gil_scoped_release release;
    cpu(args, threads);
  });
  if (cuda == nullptr) return;
  modules.cuda.cast<py::module_>().def(name, [cuda](int device, std::uintptr_t stream, const py::kwargs& values) {
    const Args args = make<Args>(values);
    const py::gil_scoped_release release;
    cuda(args, device, reinterpret_cast<void*>(stream));
  });
}

}  // namespace

#ifdef RSD_WITH_CUDA
#define EXPOSE(op, Args) expose<rsd::Args>(modules, #op, rsd::op##_cpu, rsd::op##_cuda)
#else
#define EXPOSE(op, Args) expose<rsd::Args>(modules, #op, rsd::op##_cpu)
#endif
#define EXPOSE_CPU(op, Args) expose<rsd::Args>(modules, #op, rsd::op##_cpu)  // Triton serves GPUs

PYBIND11_MODULE(_C, m) {
  Modules modules{m.def_submodule("cpu"), py::none()};
#ifdef RSD_WITH_CUDA
  modules.cuda = m.def_submodule("cuda");
#endif
  EXPOSE(philox, PhiloxArgs);
  EXPOSE(randn, RandnArgs);
  EXPOSE(observe, ObserveArgs);
  EXPOSE(perturb_backward, PerturbBackwardArgs);
  EXPOSE(denoise, DenoiseArgs);
  EXPOSE(denoise_backward, DenoiseBackwardArgs);
  EXPOSE(denoising_loss, DenoisingLossArgs);
  EXPOSE(denoising_loss_backward, DenoisingLossArgs);
  EXPOSE(score_difference_loss, ScoreDifferenceLossArgs);
  EXPOSE(score_difference_loss_backward, ScoreDifferenceLossArgs);
  EXPOSE(blur, BlurArgs);
  EXPOSE(blur_adjoint, BlurArgs);
  EXPOSE(downsample, DownsampleArgs);
  EXPOSE(downsample_adjoint, DownsampleArgs);
  EXPOSE_CPU(group_norm_silu, GroupNormSiluArgs);
  EXPOSE_CPU(group_norm_silu_backward, GroupNormSiluArgs);

  auto build = py::dict(py::arg("compiler") = RSD_COMPILER, py::arg("flags") = RSD_FLAGS,
                        py::arg("isa") = rsd::isa_name(rsd::isa()), py::arg("cuda") = false);
#ifdef RSD_WITH_CUDA
  build["cuda"] = true;
  build["cuda_compiler"] = RSD_CUDA_COMPILER;
  build["cuda_architectures"] = RSD_CUDA_ARCHITECTURES;
#endif
  m.attr("build") = build;
  m.attr("chunk") = rsd::kChunk;
}
