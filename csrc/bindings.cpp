// The only file that knows Python. A kernel is called as
//
//     _C.cpu.op(threads, field=value, ...)        _C.cuda.op(device, stream, field=value, ...)
//
// with the fields of its Args: tensors as addresses, which rsd_fast/ops/_native.py has checked, dtypes as DType.
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
struct Field {
  const char* name;
  void (*set)(Args&, py::handle);
};

template <class Args, class T, T Args::* member>
void set(Args& args, py::handle value) {
  if constexpr (std::is_pointer_v<T>) {
    args.*member = reinterpret_cast<T>(value.cast<std::uintptr_t>());
  } else if constexpr (std::is_enum_v<T>) {
    args.*member = T(value.cast<int>());
  } else {
    args.*member = value.cast<T>();
  }
}

template <class Args>
void set_mask(Args& args, py::handle value) {  // a dict of MaskArgs's fields
  const auto get = [&](const char* name) { return value.attr("get")(name).template cast<int64_t>(); };
  args.mask = {reinterpret_cast<const void*>(get("data")),
               get("batch_stride"),
               get("channel_stride"),
               get("pixel_stride"),
               get("channels"),
               get("pixels"),
               rsd::DType(get("dtype")),
               get("channels_last") != 0};
}

template <class Args>
Args make(const Field<Args>* fields, size_t count, const py::kwargs& values) {  // what is not given is 0
  Args args{};
  size_t found = 0;
  for (size_t i = 0; i < count; ++i) {
    if (!values.contains(fields[i].name)) continue;
    fields[i].set(args, values[fields[i].name]);
    ++found;
  }
  if (found != values.size()) throw py::type_error("unknown field");
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

template <class Args, size_t count>
void expose(Modules& modules, const char* name, const Field<Args> (&fields)[count], CpuKernel<Args> cpu,
            CudaKernel<Args> cuda) {  // the fields are static
  const Field<Args>* const first = fields;
  modules.cpu.def(name, [first, cpu](int threads, const py::kwargs& values) {
    const Args args = make(first, count, values);
    const py::gil_scoped_release release;
    cpu(args, threads);
  });
  if (cuda == nullptr) return;
  modules.cuda.cast<py::module_>().def(name,
                                       [first, cuda](int device, std::uintptr_t stream, const py::kwargs& values) {
                                         const Args args = make(first, count, values);
                                         const py::gil_scoped_release release;
                                         cuda(args, device, reinterpret_cast<void*>(stream));
                                       });
}

}  // namespace

#define FIELD(member) {#member, set<Args, decltype(Args::member), &Args::member>}
#ifdef RSD_WITH_CUDA
#define KERNELS(op) rsd::op##_cpu, rsd::op##_cuda
#else
#define KERNELS(op) rsd::op##_cpu, CudaKernel<Args>(nullptr)
#endif

PYBIND11_MODULE(_C, m) {
  Modules modules{m.def_submodule("cpu"), py::none()};
#ifdef RSD_WITH_CUDA
  modules.cuda = m.def_submodule("cuda");
#endif
  {
    using Args = rsd::PhiloxArgs;
    static const Field<Args> fields[] = {FIELD(sample), FIELD(element), FIELD(step),  FIELD(out),
                                         FIELD(count),  FIELD(seed),    FIELD(stream)};
    expose(modules, "philox", fields, KERNELS(philox));
  }
  {
    using Args = rsd::RandnArgs;
    static const Field<Args> fields[] = {FIELD(sample),      FIELD(step),  FIELD(out),
                                         FIELD(batch),       FIELD(inner), FIELD(sample_stride),
                                         FIELD(step_stride), FIELD(seed),  FIELD(stream)};
    expose(modules, "randn", fields, KERNELS(randn));
  }
  {
    using Args = rsd::DenoiseArgs;
    static const Field<Args> fields[] = {FIELD(F),         FIELD(x_t),   FIELD(sigma),        FIELD(D),
                                         FIELD(batch),     FIELD(inner), FIELD(sigma_stride), FIELD(sigma_data),
                                         FIELD(raw_dtype), FIELD(dtype)};
    expose(modules, "denoise", fields, KERNELS(denoise));
  }
  {
    using Args = rsd::DenoiseBackwardArgs;
    static const Field<Args> fields[] = {FIELD(grad),      FIELD(sigma), FIELD(grad_F),       FIELD(grad_x_t),
                                         FIELD(batch),     FIELD(inner), FIELD(sigma_stride), FIELD(sigma_data),
                                         FIELD(raw_dtype), FIELD(dtype)};
    expose(modules, "denoise_backward", fields, KERNELS(denoise_backward));
  }
  {
    using Args = rsd::DenoisingLossArgs;
    static const Field<Args> fields[] = {FIELD(F),
                                         FIELD(x_t),
                                         FIELD(y),
                                         FIELD(sigma),
                                         FIELD(sigma_obs),
                                         FIELD(grad),
                                         FIELD(partial),
                                         FIELD(loss),
                                         FIELD(grad_F),
                                         {"mask", set_mask<Args>},
                                         FIELD(batch),
                                         FIELD(inner),
                                         FIELD(sigma_stride),
                                         FIELD(sigma_obs_stride),
                                         FIELD(grad_stride),
                                         FIELD(sigma_data),
                                         FIELD(raw_dtype),
                                         FIELD(dtype)};
    expose(modules, "denoising_loss", fields, KERNELS(denoising_loss));
    expose(modules, "denoising_loss_backward", fields, KERNELS(denoising_loss_backward));
  }
  {
    using Args = rsd::ScoreDifferenceLossArgs;
    static const Field<Args> fields[] = {FIELD(F_teacher),    FIELD(F_fake),
                                         FIELD(u_t),          FIELD(u),
                                         FIELD(sigma),        FIELD(grad),
                                         FIELD(partial),      FIELD(loss),
                                         FIELD(weight),       FIELD(grad_F_teacher),
                                         FIELD(grad_F_fake),  FIELD(grad_u_t),
                                         FIELD(grad_u),       {"mask", set_mask<Args>},
                                         FIELD(batch),        FIELD(inner),
                                         FIELD(sigma_stride), FIELD(grad_stride),
                                         FIELD(alpha),        FIELD(sigma_data),
                                         FIELD(raw_dtype),    FIELD(dtype)};
    expose(modules, "score_difference_loss", fields, KERNELS(score_difference_loss));
    expose(modules, "score_difference_loss_backward", fields, KERNELS(score_difference_loss_backward));
  }
  {
    using Args = rsd::ObserveArgs;
    static const Field<Args> fields[] = {FIELD(images),
                                         FIELD(index),
                                         FIELD(observation_step),
                                         FIELD(sample),
                                         FIELD(step),
                                         FIELD(sigma_obs),
                                         FIELD(sigma),
                                         FIELD(kernel),
                                         FIELD(y),
                                         FIELD(x_t),
                                         FIELD(net_input),
                                         FIELD(mask),
                                         FIELD(batch),
                                         FIELD(channels),
                                         FIELD(in_height),
                                         FIELD(in_width),
                                         FIELD(height),
                                         FIELD(width),
                                         FIELD(index_stride),
                                         FIELD(observation_step_stride),
                                         FIELD(sample_stride),
                                         FIELD(step_stride),
                                         FIELD(sigma_obs_stride),
                                         FIELD(sigma_stride),
                                         FIELD(kernel_rows),
                                         FIELD(kernel_columns),
                                         FIELD(separable),
                                         FIELD(factor),
                                         FIELD(seed),
                                         FIELD(noise_seed),
                                         FIELD(threshold),
                                         FIELD(sigma_data),
                                         FIELD(kind),
                                         FIELD(images_dtype),
                                         FIELD(dtype),
                                         FIELD(net_dtype),
                                         FIELD(shared),
                                         FIELD(packed),
                                         FIELD(images_channels_last),
                                         FIELD(channels_last)};
    expose(modules, "observe", fields, KERNELS(observe));
  }
  {
    using Args = rsd::PerturbBackwardArgs;
    static const Field<Args> fields[] = {
        FIELD(grad_x_t), FIELD(grad_net_input), FIELD(sigma),      FIELD(grad_y),    FIELD(batch),
        FIELD(inner),    FIELD(sigma_stride),   FIELD(sigma_data), FIELD(raw_dtype), FIELD(dtype)};
    expose(modules, "perturb_backward", fields, KERNELS(perturb_backward));
  }
  {
    using Args = rsd::BlurArgs;
    static const Field<Args> fields[] = {FIELD(x),         FIELD(kernel),        FIELD(out),
                                         FIELD(batch),     FIELD(channels),      FIELD(height),
                                         FIELD(width),     FIELD(kernel_rows),   FIELD(kernel_columns),
                                         FIELD(separable), FIELD(channels_last), FIELD(dtype)};
    expose(modules, "blur", fields, KERNELS(blur));
    expose(modules, "blur_adjoint", fields, KERNELS(blur_adjoint));
  }
  {
    using Args = rsd::DownsampleArgs;
    static const Field<Args> fields[] = {FIELD(x),        FIELD(out),           FIELD(batch),
                                         FIELD(channels), FIELD(height),        FIELD(width),
                                         FIELD(factor),   FIELD(channels_last), FIELD(dtype)};
    expose(modules, "downsample", fields, KERNELS(downsample));
    expose(modules, "downsample_adjoint", fields, KERNELS(downsample_adjoint));
  }
  {
    using Args = rsd::GroupNormSiluArgs;
    static const Field<Args> fields[] = {FIELD(x),      FIELD(gain),          FIELD(offset),
                                         FIELD(mean),   FIELD(rstd),          FIELD(sums),
                                         FIELD(y),      FIELD(grad),          FIELD(dx),
                                         FIELD(batch),  FIELD(channels),      FIELD(pixels),
                                         FIELD(groups), FIELD(gain_stride),   FIELD(offset_stride),
                                         FIELD(eps),    FIELD(channels_last), FIELD(silu),
                                         FIELD(dtype)};
    const CudaKernel<Args> none = nullptr;  // Triton serves GPUs
    expose(modules, "group_norm_silu", fields, rsd::group_norm_silu_cpu, none);
    expose(modules, "group_norm_silu_backward", fields, rsd::group_norm_silu_backward_cpu, none);
  }

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
