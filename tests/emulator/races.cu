// Planted races, and beside each the same kernel without it. The two racing accesses of a case are on the lines
// that are marked with its name.
#include "counted.h"
#include "core/ptx.cuh"

namespace {

using namespace counted;

constexpr int threads = 64;

struct alignas(16) Shared {
  int values[2][threads];
  alignas(16) float stages[2][threads * 4];
  unsigned count;
};

__device__ int neighbour() {
  return (static_cast<int>(threadIdx.x) + 40) % threads;
}

// ---- barriers -------------------------------------------------------------------------------------------

template <bool CORRECT>
__global__ void read_after_write(int* y) {
  Shared& shared = shared_memory<Shared>();
  shared.values[0][threadIdx.x] = static_cast<int>(threadIdx.x);  // LINE read after write
  if (CORRECT) __syncthreads();
  y[threadIdx.x] = shared.values[0][neighbour()];  // LINE read after write
}

template <bool CORRECT>
__global__ void write_after_read(int* y) {
  Shared& shared = shared_memory<Shared>();
  shared.values[0][threadIdx.x] = static_cast<int>(threadIdx.x);
  __syncthreads();
  y[threadIdx.x] = shared.values[0][neighbour()];  // LINE write after read
  if (CORRECT) __syncthreads();
  shared.values[0][threadIdx.x] = 7;  // LINE write after read
}

template <bool CORRECT>
__global__ void write_after_write(int* y) {
  Shared& shared = shared_memory<Shared>();
  shared.values[0][threadIdx.x] = 1;  // LINE write after write
  if (CORRECT) __syncthreads();
  shared.values[0][neighbour()] = 2;  // LINE write after write
  __syncthreads();
  y[threadIdx.x] = shared.values[0][threadIdx.x];
}

// Each step writes one buffer while the other is read. A wrong index writes the one that is read.
template <bool CORRECT>
__global__ void double_buffer(int* y) {
  Shared& shared = shared_memory<Shared>();
  shared.values[0][threadIdx.x] = 0;
  int sum = 0;
  for (int step = 0; step < 4; ++step) {
    __syncthreads();
    sum += shared.values[step % 2][neighbour()];                                 // LINE double buffer
    shared.values[CORRECT ? (step + 1) % 2 : step % 2][threadIdx.x] = step + 1;  // LINE double buffer
  }
  y[threadIdx.x] = sum;
}

// All threads agree on the condition, so no thread waits in vain.
template <bool CORRECT>
__global__ void barrier_in_every_other_step(int* y) {
  Shared& shared = shared_memory<Shared>();
  for (int step = 0; step < 4; ++step) {
    shared.values[step % 2][threadIdx.x] = step;  // LINE every other step
    if (CORRECT || step % 2 == 0) __syncthreads();
    y[threadIdx.x] = shared.values[step % 2][neighbour()];  // LINE every other step
  }
}

// Half of a word, next to an access to the other half, which is none of its own.
template <bool CORRECT>
__global__ void halves(int* y) {
  Shared& shared = shared_memory<Shared>();
  auto* const half = reinterpret_cast<short*>(&shared.values[0]);
  half[threadIdx.x] = static_cast<short>(threadIdx.x);               // LINE halves
  if (!CORRECT) y[threadIdx.x] = shared.values[0][threadIdx.x / 2];  // LINE halves
}

// ---- warps ----------------------------------------------------------------------------------------------

// The last steps of a reduction, by one warp that takes its lanes for simultaneous.
template <bool CORRECT>
__global__ void warp_synchronous(int* y) {
  Shared& shared = shared_memory<Shared>();
  int (&values)[threads] = shared.values[0];
  values[threadIdx.x] = static_cast<int>(threadIdx.x);
  __syncthreads();
  if (threadIdx.x >= 32) return;
  for (int half = 16; half > 0; half /= 2) {
    const int other = values[threadIdx.x + half];  // LINE warp synchronous
    if (CORRECT) __syncwarp();
    values[threadIdx.x] += other;  // LINE warp synchronous
    if (CORRECT) __syncwarp();
  }
  if (threadIdx.x == 0) y[0] = values[0];
}

// A __syncwarp orders only the lanes in its mask.
template <bool CORRECT>
__global__ void narrow_mask(int* y) {
  Shared& shared = shared_memory<Shared>();
  const int lane = threadIdx.x % 32;
  shared.values[0][threadIdx.x] = lane;  // LINE narrow mask
  const unsigned half = lane < 16 ? 0xffffu : 0xffff0000u;
  __syncwarp(CORRECT ? 0xffffffffu : half);
  y[threadIdx.x] = shared.values[0][threadIdx.x ^ 16];  // LINE narrow mask
}

// Lanes 0 and 1 meet, then 1 and 2: what lane 0 wrote is ordered before what lane 2 reads.
template <bool CORRECT>
__global__ void chain(int* y) {
  Shared& shared = shared_memory<Shared>();
  if (threadIdx.x == 0) shared.values[0][0] = 5;  // LINE chain
  if (threadIdx.x < 2) __syncwarp(0x3);
  if (threadIdx.x == 1 || threadIdx.x == 2) __syncwarp(0x6);
  if (threadIdx.x == (CORRECT ? 2 : 3)) y[0] = shared.values[0][0];  // LINE chain
}

template <bool CORRECT>
__global__ void shuffle_for_barrier(int* y) {
  Shared& shared = shared_memory<Shared>();
  shared.values[0][threadIdx.x] = static_cast<int>(threadIdx.x);  // LINE shuffle
  const int source = __shfl_xor_sync(0xffffffffu, static_cast<int>(threadIdx.x), 1);
  if (CORRECT) __syncwarp();
  y[threadIdx.x] = shared.values[0][source];  // LINE shuffle
}

// ldmatrix reads rows that other lanes of the warp wrote.
template <bool CORRECT>
__global__ void matrix_rows(int* y) {
  Shared& shared = shared_memory<Shared>();
  const int lane = threadIdx.x % 32;
  float* const rows = shared.stages[threadIdx.x / 32];
  for (int i = 0; i < 4; ++i) rows[(lane ^ 1) * 4 + i] = static_cast<float>(lane);  // LINE matrix rows
  if (CORRECT) __syncwarp();
  y[threadIdx.x] = static_cast<int>(ptx::load_matrices(rows + lane * 4).part[0]);  // LINE matrix rows
}

// ---- asynchronous copies --------------------------------------------------------------------------------

// A thread's own copy is a write of its own only after its wait.
template <bool CORRECT>
__global__ void read_before_wait(const float* x, int* y) {
  Shared& shared = shared_memory<Shared>();
  float* const own = shared.stages[0] + threadIdx.x * 4;
  ptx::start_copy(own, x + threadIdx.x * 4, true);  // LINE before wait
  ptx::close_copy_group();
  if (CORRECT) ptx::wait_for_copies<0>();
  y[threadIdx.x] = static_cast<int>(own[0]);  // LINE before wait
  ptx::wait_for_copies<0>();
}

// Another thread's copy is seen after its wait and a barrier.
template <bool CORRECT>
__global__ void wait_without_barrier(const float* x, int* y) {
  Shared& shared = shared_memory<Shared>();
  ptx::start_copy(shared.stages[0] + threadIdx.x * 4, x + threadIdx.x * 4, true);  // LINE without barrier
  ptx::close_copy_group();
  ptx::wait_for_copies<0>();
  if (CORRECT) __syncthreads();
  y[threadIdx.x] = static_cast<int>(shared.stages[0][neighbour() * 4]);  // LINE without barrier
}

// A barrier before the wait orders nothing.
template <bool CORRECT>
__global__ void barrier_before_wait(const float* x, int* y) {
  Shared& shared = shared_memory<Shared>();
  ptx::start_copy(shared.stages[0] + threadIdx.x * 4, x + threadIdx.x * 4, true);  // LINE barrier before wait
  ptx::close_copy_group();
  if (!CORRECT) __syncthreads();
  ptx::wait_for_copies<0>();
  if (CORRECT) __syncthreads();
  y[threadIdx.x] = static_cast<int>(shared.stages[0][neighbour() * 4]);  // LINE barrier before wait
}

// Two groups are in flight; the wait lets one too many of them pending.
template <bool CORRECT>
__global__ void one_group_too_many(const float* x, int* y) {
  Shared& shared = shared_memory<Shared>();
  for (int stage = 0; stage < 2; ++stage) {
    ptx::start_copy(shared.stages[stage] + threadIdx.x * 4, x + threadIdx.x * 4, true);  // LINE one group
    ptx::close_copy_group();
  }
  if (CORRECT) {
    ptx::wait_for_copies<0>();
  } else {
    ptx::wait_for_copies<1>();
  }
  __syncthreads();
  y[threadIdx.x] = static_cast<int>(shared.stages[1][neighbour() * 4]);  // LINE one group
  ptx::wait_for_copies<0>();
}

// The next copy goes into a stage that others may still read.
template <bool CORRECT>
__global__ void stage_still_read(const float* x, int* y) {
  Shared& shared = shared_memory<Shared>();
  float* const own = shared.stages[0] + threadIdx.x * 4;
  ptx::start_copy(own, x + threadIdx.x * 4, true);
  ptx::close_copy_group();
  ptx::wait_for_copies<0>();
  __syncthreads();
  y[threadIdx.x] = static_cast<int>(shared.stages[0][neighbour() * 4]);  // LINE still read
  if (CORRECT) __syncthreads();
  ptx::start_copy(own, x + threadIdx.x * 4, true);  // LINE still read
  ptx::close_copy_group();
  ptx::wait_for_copies<0>();
}

// ---- atomics and global memory --------------------------------------------------------------------------

template <bool CORRECT>
__global__ void atomic_and_read(int* y) {
  Shared& shared = shared_memory<Shared>();
  if (threadIdx.x == 0) shared.count = 0;
  __syncthreads();
  atomicAdd(&shared.count, 1u);  // LINE atomic
  if (CORRECT) __syncthreads();
  y[threadIdx.x] = static_cast<int>(shared.count);  // LINE atomic
}

template <bool CORRECT>
__global__ void two_blocks_write(int* y) {
  y[CORRECT ? blockIdx.x * threads + threadIdx.x : threadIdx.x] = 1;  // LINE two blocks write
}

template <bool CORRECT>
__global__ void read_of_another_block(int* y) {
  const int own = static_cast<int>(blockIdx.x * threads + threadIdx.x);
  y[own] = own;                                                               // LINE another block
  y[2 * threads + own] = y[CORRECT ? own : (own + threads) % (2 * threads)];  // LINE another block
}

// Through global memory, within a block.
template <bool CORRECT>
__global__ void global_read_after_write(int* y) {
  y[threadIdx.x] = static_cast<int>(threadIdx.x);  // LINE global
  if (CORRECT) __syncthreads();
  y[threads + threadIdx.x] = y[neighbour()];  // LINE global
}

// ---- cases ----------------------------------------------------------------------------------------------

template <class Right, class Wrong, class... Arguments>
void both(const std::string& name, int blocks, Right right, Wrong wrong, Arguments... arguments) {
  record(name + ": right", [&] { CCONVNET_LAUNCH(right, blocks, threads, nullptr, arguments...); });
  record(name + ": wrong", [&] { CCONVNET_LAUNCH(wrong, blocks, threads, nullptr, arguments...); });
}

}  // namespace

int main() {
  int* const y = array<int>(4 * threads);
  const float* const x = array<float>(4 * threads);
#define BOTH(kernel) kernel<true>, kernel<false>
  both("read after write", 1, BOTH(read_after_write), y);
  both("write after read", 1, BOTH(write_after_read), y);
  both("write after write", 1, BOTH(write_after_write), y);
  both("double buffer", 1, BOTH(double_buffer), y);
  both("every other step", 1, BOTH(barrier_in_every_other_step), y);
  both("halves", 1, BOTH(halves), y);
  both("warp synchronous", 1, BOTH(warp_synchronous), y);
  both("narrow mask", 1, BOTH(narrow_mask), y);
  both("chain", 1, BOTH(chain), y);
  both("shuffle", 1, BOTH(shuffle_for_barrier), y);
  both("matrix rows", 1, BOTH(matrix_rows), y);
  both("before wait", 1, BOTH(read_before_wait), x, y);
  both("without barrier", 1, BOTH(wait_without_barrier), x, y);
  both("barrier before wait", 1, BOTH(barrier_before_wait), x, y);
  both("one group", 1, BOTH(one_group_too_many), x, y);
  both("still read", 1, BOTH(stage_still_read), x, y);
  both("atomic", 1, BOTH(atomic_and_read), y);
  both("two blocks write", 2, BOTH(two_blocks_write), y);
  both("another block", 2, BOTH(read_of_another_block), y);
  both("global", 1, BOTH(global_read_after_write), y);
}
