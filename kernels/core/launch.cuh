// Everything a .cu file needs to be compiled twice: by nvcc for a GPU, by a host compiler for the emulator.
//
//   shared_memory<T>()   the block's one object of type T in shared memory, uninitialised. T should be a
//                        struct of the kernel's own, so that kernels do not share by accident.
//   launch_shared_memory<T>()
//                        the same in the memory that the launch gives the block, which may be larger: up to
//                        99 KiB on every GPU of compute capability 8.0 and newer. A kernel has one such
//                        object.
//   CCONVNET_LAUNCH((kernel<A, B>), grid, block, stream, arguments...)
//                        launches, and reports a failed launch as CudaError with kernel, file and line.
//   CCONVNET_LAUNCH_SHARED((kernel<A, B>), grid, block, bytes, stream, arguments...)
//                        the same, with `bytes` of shared memory for each block.
//   CCONVNET_LAUNCH_90((kernel<A, B>), grid, block, bytes, stream, arguments...)
//                        the same for a kernel of compute capability 9.0, whose blocks may have 227 KiB.
//   CCONVNET_CHECK(expression)
//                        the same for a call of the CUDA runtime.
//   CCONVNET_HOST_DEVICE marks a function for both sides (host_device.h, for headers the CPU build shares).
#pragma once

#include "api.h"
#include "core/host_device.h"

#ifdef __CUDACC__

#include <cuda_runtime.h>

namespace cconvnet {

inline void check_cuda(cudaError_t status, const char* what, const char* file, int line) {
  if (status == cudaSuccess) return;
  throw CudaError(std::string(what) + " failed at " + file + ":" + std::to_string(line) + ": " +
                  cudaGetErrorName(status) + ", " + cudaGetErrorString(status));
}

template <class T>
__device__ __forceinline__ T& shared_memory() {
  __shared__ T memory;
  return memory;
}

template <class T>
__device__ __forceinline__ T& launch_shared_memory() {
  extern __shared__ __align__(128) unsigned char cconvnet_launch_shared_memory[];
  extern __shared__ __align__(1024) unsigned char cconvnet_launch_shared_memory_1024[];
  static_assert(alignof(T) <= 1024, "what the copy engine swizzles repeats after 1024 bytes");
  // A name that nothing uses: machine_code.py reads the size from it, which machine code shows nowhere else.
  asm("{ .reg .b32 launch_shared_memory_%0; }" ::"n"(sizeof(T)));
  if constexpr (alignof(T) > 128) {
    return *reinterpret_cast<T*>(cconvnet_launch_shared_memory_1024);
  } else {
    return *reinterpret_cast<T*>(cconvnet_launch_shared_memory);
  }
}

}  // namespace cconvnet

#define CCONVNET_CHECK(expression) ::cconvnet::check_cuda((expression), #expression, __FILE__, __LINE__)
#define CCONVNET_LAUNCH_SHARED(kernel, grid, block, bytes, stream, ...)                                   \
  do {                                                                                                    \
    /* More than 48 KiB must be requested. */                                                             \
    if ((bytes) > 0) {                                                                                    \
      CCONVNET_CHECK(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, (bytes))); \
    }                                                                                                     \
    kernel<<<(grid), (block), (bytes), static_cast<cudaStream_t>(stream)>>>(__VA_ARGS__);                 \
    ::cconvnet::check_cuda(cudaGetLastError(), "launch of " #kernel, __FILE__, __LINE__);                 \
  } while (0)
#define CCONVNET_LAUNCH(kernel, grid, block, stream, ...) \
  CCONVNET_LAUNCH_SHARED(kernel, grid, block, 0, stream, __VA_ARGS__)
#define CCONVNET_LAUNCH_90 CCONVNET_LAUNCH_SHARED

#else

#include "emulator/emulator.h"

#endif
