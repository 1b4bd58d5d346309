// Kernels that begin before the one ahead of them in the stream has ended, if they are launched so
// (LaunchOptions::programmatic): PTX ISA 8.5, "Parallel Synchronization and Communication Instructions:
// griddepcontrol". In other launches, and on older GPUs, both wrappers do nothing.
#pragma once

#include "core/ptx_call.cuh"

namespace cconvnet {
namespace ptx {

// Waits until the kernels ahead have ended, and what they wrote can be read. Every thread calls it, before it reads or
// writes global memory: not even what no kernel ahead writes may be written earlier, for it may be read there.
__device__ __forceinline__ void wait_for_kernel_ahead(CCONVNET_PTX_CALLER_ALONE) {
#ifndef __CUDACC__
  emulator::wait_for_kernel_ahead({"griddepcontrol.wait", file, line});
#elif __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
}

// Lets the kernel behind begin once every block has called it or ended. That kernel still waits for the end of this.
__device__ __forceinline__ void start_kernel_behind() {
#if defined(__CUDACC__) && __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
#endif
}

}  // namespace ptx
}  // namespace cconvnet
