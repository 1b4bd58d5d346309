// Arguments, clock and shapes of the loops of calibration.cu.
#pragma once

#include <cstddef>

#include "core/launch.cuh"
#include "core/ptx.cuh"
#include "core/vector.cuh"

using namespace cconvnet;

namespace {

// ---- functions that only a GPU has ------------------------------------------------------------------------

#ifdef __CUDACC__

__device__ __forceinline__ long long clock_now() {
  return clock64();
}

__device__ __forceinline__ uint4 load_past_l1(const uint4* address) {
  return __ldcg(address);
}

#else

inline long long clock_now() {
  return 0;
}

inline uint4 load_past_l1(const uint4* address) {
  return *address;
}

#endif

// Arguments of a kernel. A result that never occurs goes to `sink`, so that the compiler removes no work.
struct Given {
  int iterations;
  const uint4* in;
  uint4* out;
  unsigned* sink;
  long long* cycles;
  size_t vectors;  // of `in` and of `out`
};

__device__ __forceinline__ void keep(const Given& given, unsigned value) {
  if (value == 0x5eed5eedu) *given.sink = value;
}

// Count of the cycles of a block's first warp.
class Clock {
 public:
  __device__ __forceinline__ Clock() {
    __syncthreads();
    begin_ = clock_now();
  }

  __device__ __forceinline__ void stop(const Given& given) const {
    __syncthreads();
    if (threadIdx.x == 0) given.cycles[blockIdx.x] = clock_now() - begin_;
  }

 private:
  long long begin_;
};

constexpr int kWide = 512;    // threads of a block that fills half a multiprocessor or more
constexpr int kSteps = 16;    // of a loop, written out
constexpr int kChains = 8;    // independent sums of a thread, so that latency is hidden
constexpr int kProducts = 4;  // independent products of a warp
constexpr int kFedSteps = 4;  // of a loop whose products are fed from shared memory

}  // namespace
