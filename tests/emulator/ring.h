// A ring of stages of shared memory, which one lane fills by the copy engine and some warps read.
#pragma once

#include "core/barriers.cuh"

template <class T, int ELEMENTS, int STAGES, int BOUNDARY = 128>
struct alignas(BOUNDARY) Ring {
  T stage[STAGES][ELEMENTS];
  cconvnet::ptx::Barrier full[STAGES], empty[STAGES];

  // By all threads of the block. `readers` arrive when they have read a stage.
  __device__ void begin(uint32_t readers) {
    if (threadIdx.x == 0) {
      for (int i = 0; i < STAGES; ++i) {
        cconvnet::ptx::init_barrier(full[i], 1);
        cconvnet::ptx::init_barrier(empty[i], readers);
      }
    }
    __syncthreads();
  }
};
