// What every CUDA launcher needs: errors as exceptions, and the device set for the length of a scope.
#pragma once
#include <cuda_runtime.h>

#include <stdexcept>
#include <string>

namespace rsd {

inline void cuda_check(cudaError_t error, const char* op, const char* file, int line) {
  if (error == cudaSuccess) return;
  throw std::runtime_error(std::string(op) + ": " + cudaGetErrorString(error) + " (" + file + ":" +
                           std::to_string(line) + ")");
}

// RSD_CUDA_CHECK(cudaGetLastError(), "op") behind every launch.
#define RSD_CUDA_CHECK(error, op) ::rsd::cuda_check(error, op, __FILE_NAME__, __LINE__)

class DeviceGuard {
 public:
  explicit DeviceGuard(int device) {
    RSD_CUDA_CHECK(cudaGetDevice(&previous_), "cudaGetDevice");
    if (device != previous_) RSD_CUDA_CHECK(cudaSetDevice(device), "cudaSetDevice");
  }
  ~DeviceGuard() { cudaSetDevice(previous_); }
  DeviceGuard(const DeviceGuard&) = delete;
  DeviceGuard& operator=(const DeviceGuard&) = delete;

 private:
  int previous_ = 0;
};

}  // namespace rsd
