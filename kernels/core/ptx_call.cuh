// How an instruction of PTX is written: as inline PTX for a GPU, and for the emulator as a call that knows its line.
#pragma once

#include "core/launch.cuh"

#ifdef __CUDACC__

// An instruction of compute capability 8.0 and newer; of 9.0 alone, as sm_90a has them. Elsewhere they trap.
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ < 800
#define CCONVNET_PTX(...) __trap()
#else
#define CCONVNET_PTX(...) asm volatile(__VA_ARGS__)
#endif
#if defined(__CUDA_ARCH_FEAT_SM90_ALL)
#define CCONVNET_PTX_90(...) asm volatile(__VA_ARGS__)
#else
#define CCONVNET_PTX_90(...) __trap()
#endif
#define CCONVNET_PTX_CALLER
#define CCONVNET_PTX_CALLER_ALONE

namespace cconvnet::ptx {

__device__ __forceinline__ uint32_t shared_address(const void* address) {
  return static_cast<uint32_t>(__cvta_generic_to_shared(address));
}

}  // namespace cconvnet::ptx

#else

// Each records the line it is called from, as in emulator/synchronization.h.
#define CCONVNET_PTX_CALLER_ALONE const char *file = __builtin_FILE(), int line = __builtin_LINE()
#define CCONVNET_PTX_CALLER , CCONVNET_PTX_CALLER_ALONE

namespace cconvnet::ptx {

constexpr unsigned kAllLanes = ~0u;

}  // namespace cconvnet::ptx

#endif
