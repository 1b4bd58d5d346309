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
//   CCONVNET_LAUNCH_WITH(options, (kernel<A, B>), grid, block, bytes, stream, arguments...)
//                        CCONVNET_LAUNCH_SHARED with LaunchOptions: clusters, the kernel ahead.
//   CCONVNET_LAUNCH_90_WITH(options, ...)
//                        CCONVNET_LAUNCH_90 with them.
//   CCONVNET_CHECK(expression)
//                        the same for a call of the CUDA runtime.
//   CCONVNET_HOST_DEVICE marks a function for both sides (host_device.h, for headers the CPU build shares).
#pragma once

#include "api.h"
#include "core/host_device.h"
#include "core/launch_options.h"

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

// A launch with options, to be called with the kernel's arguments.
template <class... Parameters>
struct Launch {
  const LaunchOptions& options;
  void (*kernel)(Parameters...);
  dim3 grid, block;
  size_t bytes;
  Stream stream;

  // Only code of compute capability 9.0 waits for the kernel ahead: without it the kernel begins behind that.
  bool waits() const {
    cudaFuncAttributes attributes;
    check_cuda(cudaFuncGetAttributes(&attributes, kernel), "cudaFuncGetAttributes", __FILE__, __LINE__);
    return attributes.ptxVersion >= 90;
  }

  cudaError_t operator()(Parameters... arguments) const {
    cudaLaunchAttribute attributes[2];
    unsigned count = 0;
    if (options.cluster > 1) {
      attributes[count].id = cudaLaunchAttributeClusterDimension;
      attributes[count++].val.clusterDim = {options.cluster, 1, 1};
    }
    if (options.programmatic && waits()) {
      attributes[count].id = cudaLaunchAttributeProgrammaticStreamSerialization;
      attributes[count++].val.programmaticStreamSerializationAllowed = 1;
    }
    cudaLaunchConfig_t config{};
    config.gridDim = grid;
    config.blockDim = block;
    config.dynamicSmemBytes = bytes;
    config.stream = static_cast<cudaStream_t>(stream);
    config.attrs = attributes;
    config.numAttrs = count;
    return cudaLaunchKernelEx(&config, kernel, arguments...);
  }
};

template <class... Parameters>
Launch<Parameters...> launch(const LaunchOptions& options, void (*kernel)(Parameters...), dim3 grid,
                             dim3 block, size_t bytes, Stream stream) {
  return {options, kernel, grid, block, bytes, stream};
}

}  // namespace cconvnet

#define CCONVNET_CHECK(expression) ::cconvnet::check_cuda((expression), #expression, __FILE__, __LINE__)
/* More than 48 KiB must be requested. */
#define CCONVNET_REQUEST_SHARED(kernel, bytes)                                                            \
  do {                                                                                                    \
    if ((bytes) > 0) {                                                                                    \
      CCONVNET_CHECK(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, (bytes))); \
    }                                                                                                     \
  } while (0)
#define CCONVNET_LAUNCH_SHARED(kernel, grid, block, bytes, stream, ...)                   \
  do {                                                                                    \
    CCONVNET_REQUEST_SHARED(kernel, bytes);                                               \
    kernel<<<(grid), (block), (bytes), static_cast<cudaStream_t>(stream)>>>(__VA_ARGS__); \
    ::cconvnet::check_cuda(cudaGetLastError(), "launch of " #kernel, __FILE__, __LINE__); \
  } while (0)
#define CCONVNET_LAUNCH(kernel, grid, block, stream, ...) \
  CCONVNET_LAUNCH_SHARED(kernel, grid, block, 0, stream, __VA_ARGS__)
#define CCONVNET_LAUNCH_90 CCONVNET_LAUNCH_SHARED
#define CCONVNET_LAUNCH_WITH(options, kernel, grid, block, bytes, stream, ...)                  \
  do {                                                                                          \
    CCONVNET_REQUEST_SHARED(kernel, bytes);                                                     \
    ::cconvnet::check_cuda(                                                                     \
        ::cconvnet::launch((options), kernel, (grid), (block), (bytes), (stream))(__VA_ARGS__), \
        "launch of " #kernel, __FILE__, __LINE__);                                              \
  } while (0)
#define CCONVNET_LAUNCH_90_WITH CCONVNET_LAUNCH_WITH

#else

#include "emulator/emulator.h"

#endif
