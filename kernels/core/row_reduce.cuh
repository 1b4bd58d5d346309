// Reductions over the threads that serve one row of a matrix: a warp or a whole block. Values go through the
// warp by a butterfly of shuffles, which gives every lane the same bits, and through the block in the order
// of its warps.
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

// `slots`, kWarps values in shared memory, are for this reduction alone, so no barrier is needed to use them
// again.
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
