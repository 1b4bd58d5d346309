// sums[row] = the sum of x[row, :], a block for each row. The tree of partial sums lives in shared memory.
#include "core/launch.cuh"

constexpr int kThreads = 128;

struct Partials {
  float at[kThreads];
};

__global__ void row_sums(const float* x, int columns, float* sums) {
  float* partial = cconvnet::shared_memory<Partials>().at;
  const int thread = threadIdx.x;
  float sum = 0;
  for (int i = thread; i < columns; i += kThreads) sum += x[blockIdx.x * columns + i];
  partial[thread] = sum;
  for (int half = kThreads / 2; half > 0; half /= 2) {
#ifndef FORGET_THE_BARRIER
    __syncthreads();  // what the next line reads was written by other threads
#endif
    if (thread < half) partial[thread] += partial[thread + half];
  }
  if (thread == 0) sums[blockIdx.x] = partial[0];
}

// Python calls this through ctypes. On a GPU all pointers are device memory.
extern "C" void run(const float* x, int rows, int columns, float* sums) {
  CCONVNET_LAUNCH(row_sums, rows, kThreads, nullptr, x, columns, sums);
}
