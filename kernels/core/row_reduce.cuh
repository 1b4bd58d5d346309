// Reductions over the threads that share one row of a matrix: a warp or a whole block. Values are combined
// within a warp by a butterfly of shuffles, which gives every lane the same bits, and within a block in the
// order of its warps.
#pragma once

#include "core/vector.cuh"

namespace cconvnet {

constexpr int kWarp = 32;
constexpr int kWarps = kThreads / kWarp;

struct Sum {
  template <class T>
  __device__ T operator()(T a, T b) const {
    return a + b;
  }
};

template <class T, class Operation>
__device__ __forceinline__ T reduce_warp(T value, Operation operation) {
#pragma unroll
  for (int distance = kWarp / 2; distance > 0; distance /= 2) {
    value = operation(value, __shfl_xor_sync(kFullWarp, value, distance));
  }
  return value;
}

// `slots`, kWarps values in shared memory, must be used by no other reduction, so that no barrier is needed
// before they are written.
template <int THREADS, class T, class Operation>
__device__ __forceinline__ T reduce_row(T value, T* slots, Operation operation) {
  value = reduce_warp(value, operation);
  if (THREADS == kWarp) return value;
  if (threadIdx.x % kWarp == 0) slots[threadIdx.x / kWarp] = value;
  __syncthreads();
  value = slots[0];
#pragma unroll
  for (int warp = 1; warp < kWarps; ++warp) value = operation(value, slots[warp]);
  return value;
}

}  // namespace cconvnet
