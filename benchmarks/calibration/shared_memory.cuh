// Loops that access shared memory, feed tensor cores from it, shuffle words, or synchronize a block.
#pragma once

#include "loop.cuh"

namespace {

struct alignas(128) Room {
  uint4 at[2 * kWide];
};

__device__ __forceinline__ Room& filled_room(const Given& given) {
  Room& room = shared_memory<Room>();
  for (int i = threadIdx.x; i < 2 * kWide; i += blockDim.x) room.at[i] = given.in[i];
  __syncthreads();
  return room;
}

__global__ void __launch_bounds__(kWide) shared_loads(Given given) {
  const Room& room = filled_room(given);
  unsigned all = 0;
  const Clock clock;
#pragma unroll 1
  for (int it = 0; it < given.iterations; ++it) {
#pragma unroll
    for (int step = 0; step < kSteps; ++step) {
      // Every other turn has another address; otherwise one load would serve all.
      const uint4 value = room.at[threadIdx.x + (it & 1) + step * 32];
      all ^= value.x ^ value.y ^ value.z ^ value.w;
    }
  }
  clock.stop(given);
  keep(given, all);
}

template <bool TRANSPOSED>
__global__ void __launch_bounds__(kWide) matrix_loads(Given given) {
  const Room& room = filled_room(given);
  unsigned all = 0;
  const uint4* row = &room.at[threadIdx.x];
  const Clock clock;
#pragma unroll 1
  for (int it = 0; it < given.iterations; ++it) {
#pragma unroll
    for (int step = 0; step < kSteps; ++step) {
      const ptx::Matrices m =
          TRANSPOSED ? ptx::load_matrices_transposed(row + step * 32) : ptx::load_matrices(row + step * 32);
      all ^= m.part[0] ^ m.part[1] ^ m.part[2] ^ m.part[3];
    }
  }
  clock.stop(given);
  keep(given, all);
}

// The inner loop of a tile of 64 x 32 results for a warp: all factors come from shared memory, six loads of
// matrices for 16 products.
constexpr int kTileRows = 4, kTileColumns = 4;

template <bool BF16>
__global__ void __launch_bounds__(256) fed_products(Given given) {
  const Room& room = filled_room(given);
  const uint4* const rows = &room.at[threadIdx.x];
  float c[kTileRows][kTileColumns][4] = {};
  const Clock clock;
#pragma unroll 1
  for (int it = 0; it < given.iterations; ++it) {
#pragma unroll
    for (int step = 0; step < kFedSteps; ++step) {
      ptx::Matrices a[kTileRows], b[kTileColumns / 2];
#pragma unroll
      for (int i = 0; i < kTileRows; ++i) a[i] = ptx::load_matrices(rows + (6 * step + i) * 32);
#pragma unroll
      for (int j = 0; j < kTileColumns / 2; ++j) {
        b[j] = ptx::load_matrices(rows + (6 * step + kTileRows + j) * 32);
      }
#pragma unroll
      for (int i = 0; i < kTileRows; ++i) {
#pragma unroll
        for (int j = 0; j < kTileColumns; ++j) {
          const ptx::Word factors[2] = {b[j / 2].part[j % 2 * 2], b[j / 2].part[j % 2 * 2 + 1]};
          if (BF16) {
            ptx::multiply_add_bf16(c[i][j], a[i].part, factors);
          } else {
            ptx::multiply_add_tf32(c[i][j], a[i].part, factors);
          }
        }
      }
    }
  }
  clock.stop(given);
  float total = 0;
  for (const auto& row : c) {
    for (const auto& product : row) {
      for (float value : product) total += value;
    }
  }
  keep(given, __float_as_uint(total));
}

__global__ void __launch_bounds__(kWide) shuffles(Given given) {
  unsigned value[kChains];
  for (int i = 0; i < kChains; ++i) value[i] = threadIdx.x * (i + 3);
  const Clock clock;
#pragma unroll 1
  for (int it = 0; it < given.iterations; ++it) {
#pragma unroll
    for (int step = 0; step < kSteps; ++step) {
#pragma unroll
      for (int i = 0; i < kChains; ++i) value[i] = __shfl_xor_sync(kFullWarp, value[i], 1 + step % 16);
    }
  }
  clock.stop(given);
  unsigned all = 0;
  for (unsigned v : value) all ^= v;
  keep(given, all);
}

template <int THREADS>
__global__ void __launch_bounds__(THREADS) barriers(Given given) {
  const Clock clock;
#pragma unroll 1
  for (int it = 0; it < given.iterations; ++it) {
#pragma unroll
    for (int step = 0; step < kSteps; ++step) __syncthreads();
  }
  clock.stop(given);
}

__global__ void __launch_bounds__(32) shared_chain(Given given) {
  Room& room = filled_room(given);
#pragma unroll 1
  for (unsigned i = threadIdx.x; i < 2 * kWide; i += 32) room.at[i].x = (i + 33) % (2 * kWide);
  __syncthreads();
  unsigned place = threadIdx.x;
  const Clock clock;
#pragma unroll 1
  for (int it = 0; it < given.iterations; ++it) {
#pragma unroll
    for (int step = 0; step < kSteps; ++step) place = room.at[place].x;
  }
  clock.stop(given);
  keep(given, place);
}

}  // namespace
