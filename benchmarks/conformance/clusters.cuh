// Checks of launches with options: clusters of blocks, and kernels that begin before the one ahead of them has ended.
#pragma once

#include "words.cuh"
#include "core/cluster.cuh"
#include "core/copy_engine.cuh"
#include "core/dependent.cuh"

namespace {

// ---- clusters -----------------------------------------------------------------------------------------------

constexpr unsigned kClusterBlocks = 4, kExchanging = 96;

struct Exchanged {
  Vector<4> mine[kExchanging], given[kExchanging];
};

// In turns, each block reads from one of the others and writes to another.
__global__ void exchange(const uint32_t* x, uint32_t* y) {
  Exchanged& shared = launch_shared_memory<Exchanged>();
  const uint32_t block = ptx::block_of_cluster();
  const int t = threadIdx.x, number = blockIdx.x * kExchanging + t;
  for (int i = 0; i < 4; ++i) shared.mine[t].lane[i] = __uint_as_float(x[4 * number + i] & 0x3fffffff);
  uint32_t hash = block + 1;
  for (uint32_t turn = 1; turn < kClusterBlocks; ++turn) {
    ptx::arrive_at_cluster();
    ptx::wait_for_cluster();
    const Vector<4> theirs =
        ptx::load_from_block(shared.mine[kExchanging - 1 - t], (block + turn) % kClusterBlocks);
    ptx::store_to_block(shared.given[(t + 5) % kExchanging], (block + 2 * turn) % kClusterBlocks, theirs);
    ptx::arrive_at_cluster();
    ptx::wait_for_cluster();
    for (int i = 0; i < 4; ++i) hash = hash * 31 + __float_as_uint(shared.given[t].lane[i]);
  }
  y[number] = hash;
}

Words of_exchange() {
  const int count = 2 * kClusterBlocks * kExchanging;
  const DeviceWords x(Draw(31).words(4 * count)), y(count);
  CCONVNET_LAUNCH_WITH(LaunchOptions{kClusterBlocks}, exchange, 2 * kClusterBlocks, kExchanging,
                       sizeof(Exchanged), nullptr, x.at(), y.at());
  return y.host();
}

constexpr int kPairRows = 50, kPairColumns = 8, kPairStages = 3;

struct alignas(128) PairShared {
  uint32_t stage[kPairStages][2][32];  // halves of a row, and room up to the next boundary
  ptx::Barrier full[kPairStages], empty[kPairStages];
};

// Both blocks need both halves of each row. Each loads one for both, and two warps of each hash them.
__global__ void pair_ring(CCONVNET_MAP map, uint32_t* y) {
  PairShared& shared = launch_shared_memory<PairShared>();
  const uint32_t block = ptx::block_of_cluster();
  if (threadIdx.x == 0) {
    for (int i = 0; i < kPairStages; ++i) {
      ptx::init_barrier(shared.full[i], 1);
      ptx::init_barrier(shared.empty[i], 4);
    }
  }
  ptx::arrive_at_cluster();
  ptx::wait_for_cluster();
  if (threadIdx.x < 32) {
    if (ptx::is_elected()) {
      for (int row = 0; row < kPairRows; ++row) {
        const int stage = row % kPairStages;
        ptx::wait(shared.empty[stage], row / kPairStages % 2 ^ 1);
        ptx::arrive_and_expect(shared.full[stage], 2 * kPairColumns * sizeof(uint32_t));
        const ptx::Multicast both = {shared.full[stage], 3};
        ptx::load_box(shared.stage[stage][block], map, both, block * kPairColumns, row);
      }
    }
  } else {
    uint32_t hash = blockIdx.x;
    for (int row = 0; row < kPairRows; ++row) {
      const int stage = row % kPairStages;
      ptx::wait(shared.full[stage], row / kPairStages % 2);
      hash = hash * 31 + shared.stage[stage][threadIdx.x / 8 % 2][threadIdx.x % 8];
      __syncwarp();
      if (threadIdx.x % 32 < 2) ptx::arrive_in_block(shared.empty[stage], threadIdx.x % 32);
    }
    y[blockIdx.x * 64 + threadIdx.x - 32] = hash;
  }
  ptx::arrive_at_cluster();
  ptx::wait_for_cluster();
}

Words of_pair_ring() {
  constexpr int columns = 2 * kPairColumns, pairs = 8;
  const DeviceWords x(Draw(32).words(kPairRows * columns)), y(pairs * 2 * 64);
  const TensorMap map =
      tiled_map({x.at(), 4, 2, {columns, kPairRows}, {4, columns * 4}}, {kPairColumns, 1}, Swizzle::none);
  CCONVNET_LAUNCH_90_WITH(LaunchOptions{2}, pair_ring, 2 * pairs, 96, sizeof(PairShared), nullptr, map,
                          y.at());
  return y.host();
}

constexpr int kSharedLines = 32;

struct alignas(1024) SharedBoxes {
  uint32_t at[4][kSharedLines * 8];  // lines of 32 bytes
  ptx::Barrier full;
};

// Of three blocks the first loads a box for all, the second windows for itself and the third; the third a box of a matrix.
__global__ void load_for_others(CCONVNET_MAP cube, CCONVNET_MAP windows, CCONVNET_MAP matrix, uint32_t* y) {
  SharedBoxes& shared = launch_shared_memory<SharedBoxes>();
  const uint32_t block = ptx::block_of_cluster();
  constexpr uint32_t bytes = sizeof(shared.at[0]);
  if (threadIdx.x == 0) {
    ptx::init_barrier(shared.full, 1);
    ptx::arrive_and_expect(shared.full, block == 0 ? 2 * bytes : 3 * bytes);
  }
  for (int i = threadIdx.x; i < 4 * kSharedLines * 8; i += 32) shared.at[3][i % (kSharedLines * 8)] = block;
  ptx::arrive_at_cluster();
  ptx::wait_for_cluster();
  if (threadIdx.x == 0) {
    if (block == 0) ptx::load_box(shared.at[0], cube, ptx::Multicast{shared.full, 7}, 16, 1, 3);
    if (block == 1)
      ptx::load_windows(shared.at[1], windows, ptx::Multicast{shared.full, 6}, 0, 3, 2, 0, 1, 2);
    if (block == 2) ptx::load_box(shared.at[2], matrix, ptx::Multicast{shared.full, 7}, 16, 9);
    ptx::wait(shared.full, 0);
  }
  __syncthreads();
  for (int i = threadIdx.x; i < 4 * kSharedLines * 8; i += 32) {
    const int box = i / (kSharedLines * 8);
    y[block * 4 * kSharedLines * 8 + i] =
        box == 1 && block == 0 ? block : shared.at[box][i % (kSharedLines * 8)];
  }
  ptx::arrive_at_cluster();
  ptx::wait_for_cluster();
}

Words of_loads_for_others() {
  constexpr int C = 32, W = 9, H = 8, N = 3;
  const DeviceWords x(Draw(33).words(N * H * W * C / 2)), y(3 * 4 * kSharedLines * 8);
  const TensorMap cube = tiled_map({x.at(), 2, 3, {C, W, H * N}, {2, C * 2, C * W * 2}},
                                   {16, 2, kSharedLines / 2}, Swizzle::bytes_32);
  const TensorMap windows = window_map({x.at(), 2, 4, {C, W, H, N}, {2, C * 2, C * W * 2, C * W * H * 2}},
                                       {0, 0, -2, -2, 1, 1, 16, kSharedLines}, Swizzle::bytes_32);
  const TensorMap matrix =
      tiled_map({x.at(), 2, 2, {C, W * H * N}, {2, C * 2}}, {16, kSharedLines}, Swizzle::bytes_32);
  CCONVNET_LAUNCH_90_WITH(LaunchOptions{3}, load_for_others, 3, 32, sizeof(SharedBoxes), nullptr, cube,
                          windows, matrix, y.at());
  return y.host();
}

// ---- kernels that overlap with the one ahead ----------------------------------------------------------------

constexpr int kChained = 256, kKernels = 5;

// Each kernel hashes what the one ahead of it wrote, after a while, and lets the next one begin at once.
__global__ void chained(const uint32_t* x, uint32_t* y) {
  ptx::start_kernel_behind();
  uint32_t hash = threadIdx.x;
  for (int i = 0; i < 5000; ++i) hash = hash * 1664525u + 1013904223u;
  ptx::wait_for_kernel_ahead();
  y[(threadIdx.x + 1) % kChained] = hash ^ x[threadIdx.x] * 31;
}

Words of_chained_kernels() {
  const DeviceWords x(Draw(30).words(kChained)), y(kChained);
  for (int i = 0; i < kKernels; ++i) {
    const LaunchOptions options = {1, i > 0};
    CCONVNET_LAUNCH_WITH(options, chained, 1, kChained, 0, nullptr, i % 2 ? y.at() : x.at(),
                         i % 2 ? x.at() : y.at());
  }
  return y.host();
}

}  // namespace
