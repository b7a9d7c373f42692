// The only file that knows Python. Tensors arrive as addresses: rsd_fast/ops/_native.py has checked them.
#include <pybind11/pybind11.h>

#include "philox.h"

namespace py = pybind11;
using py::arg;
using Address = std::uintptr_t;

namespace {

template <class T>
T* at(Address address) {
  return reinterpret_cast<T*>(address);
}

rsd::PhiloxArgs philox_args(Address sample, Address element, Address step, Address out, int64_t count,
                            uint64_t seed, uint32_t stream) {
  return {
      at<int64_t>(sample), at<int64_t>(element), at<int64_t>(step), at<uint32_t>(out), count, seed, stream};
}

rsd::RandnArgs randn_args(Address sample, Address step, Address out, int64_t batch, int64_t inner,
                          int64_t sample_stride, int64_t step_stride, uint64_t seed, uint32_t stream) {
  return {at<int64_t>(sample), at<int64_t>(step), at<float>(out), batch, inner,
          sample_stride,       step_stride,       seed,           stream};
}

}  // namespace

PYBIND11_MODULE(_C, m) {
  const py::call_guard<py::gil_scoped_release> release;
  const py::kw_only kw;

  auto cpu = m.def_submodule("cpu");
  cpu.def(
      "philox",
      [](Address sample, Address element, Address step, Address out, int64_t count, uint64_t seed,
         uint32_t stream, int threads) {
        rsd::philox_cpu(philox_args(sample, element, step, out, count, seed, stream), threads);
      },
      kw, arg("sample"), arg("element"), arg("step"), arg("out"), arg("count"), arg("seed"), arg("stream"),
      arg("threads"), release);
  cpu.def(
      "randn",
      [](Address sample, Address step, Address out, int64_t batch, int64_t inner, int64_t sample_stride,
         int64_t step_stride, uint64_t seed, uint32_t stream, int threads) {
        rsd::randn_cpu(randn_args(sample, step, out, batch, inner, sample_stride, step_stride, seed, stream),
                       threads);
      },
      kw, arg("sample"), arg("step"), arg("out"), arg("batch"), arg("inner"), arg("sample_stride"),
      arg("step_stride"), arg("seed"), arg("stream"), arg("threads"), release);

  auto build = py::dict(arg("compiler") = RSD_COMPILER, arg("flags") = RSD_FLAGS, arg("cuda") = false);
#ifdef RSD_WITH_CUDA
  auto cuda = m.def_submodule("cuda");
  cuda.def(
      "philox",
      [](Address sample, Address element, Address step, Address out, int64_t count, uint64_t seed,
         uint32_t stream, int device, Address cuda_stream) {
        rsd::philox_cuda(philox_args(sample, element, step, out, count, seed, stream), device,
                         at<void>(cuda_stream));
      },
      kw, arg("sample"), arg("element"), arg("step"), arg("out"), arg("count"), arg("seed"), arg("stream"),
      arg("device"), arg("cuda_stream"), release);
  cuda.def(
      "randn",
      [](Address sample, Address step, Address out, int64_t batch, int64_t inner, int64_t sample_stride,
         int64_t step_stride, uint64_t seed, uint32_t stream, int device, Address cuda_stream) {
        rsd::randn_cuda(randn_args(sample, step, out, batch, inner, sample_stride, step_stride, seed, stream),
                        device, at<void>(cuda_stream));
      },
      kw, arg("sample"), arg("step"), arg("out"), arg("batch"), arg("inner"), arg("sample_stride"),
      arg("step_stride"), arg("seed"), arg("stream"), arg("device"), arg("cuda_stream"), release);
  build["cuda"] = true;
  build["cuda_compiler"] = RSD_CUDA_COMPILER;
  build["cuda_architectures"] = RSD_CUDA_ARCHITECTURES;
#endif
  m.attr("build") = build;
}
