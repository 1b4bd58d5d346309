// One block's share of a matrix product C[m,n] = sum over k of A[m,k] * B[n,k] on the tensor cores of compute capability
// 9.0, which read their factors from shared memory (wgmma), where the copy engine puts them.
//
// A block has three warp groups. One lane of the last starts copies, tile after tile and step after step, as far ahead
// as there are stages. The two others multiply, 64 rows at a time, and write their sums while the copies of the next
// tile arrive. There are as many blocks as multiprocessors, and the tiles are dealt out to them in turn, so that each
// block fills its pipeline once. Barriers in shared memory order copies and products: a stage is full when all its bytes have come,
// and empty when all warps have multiplied it.
//
// A step of BLOCK_K is a few slabs of SLAB. The copies of a slab are those of one tap, so that a slab may be as short as
// 16 channels where a group has 48. In shared memory an operand's slab consists of lines, as the copy engine writes them:
// along k each row is a line; across k each k has lines of LINE neighbouring rows.
//
// A pass of the convolution is a class with
//   static constexpr bool A_ALONG_K, B_ALONG_K;
//   static constexpr int A_LINE, B_LINE;            elements of a line
//   Place place(const GemmBlock&) const;            all that it can compute once for a tile
//   void load_a(T* slab, Barrier&, const Place&, uint32_t k) const;
//   void load_b(...) const;                         start the copies of a slab, all of whose bytes come to the barrier;
//                                                   of one behind the end zeros
#pragma once

#include "core/copy_engine.cuh"
#include "core/multiprocessors.h"
#include "core/wgmma.cuh"
#include "gemm/implicit_gemm.cuh"

namespace cconvnet {

constexpr int kWarpGroup = 128;  // threads

template <class T, int BLOCK_M_, int BLOCK_N_, int SLAB_, int STAGES_>
struct WgmmaTile {
  using Element = T;
  static constexpr bool TENSOR = true, WARP_GROUPS = true;
  static constexpr Precision PRECISION = std::is_same_v<T, bfloat16> ? Precision::bf16 : Precision::tf32;
  static constexpr int BLOCK_M = BLOCK_M_, BLOCK_N = BLOCK_N_, SLAB = SLAB_, STAGES = STAGES_;
  static constexpr int BLOCK_K = 128 / sizeof(T), SLABS = BLOCK_K / SLAB;
  static constexpr int PRODUCT_K = 32 / sizeof(T);  // of one wgmma
  static constexpr int GROUPS = 2, THREADS = (GROUPS + 1) * kWarpGroup;
  static constexpr int PRODUCTS_M = BLOCK_M / (64 * GROUPS);  // of a group
  // Registers of the threads that copy and of those that multiply: 64 Ki together.
  static constexpr int COPYING = 40, MULTIPLYING = 232;

  static_assert(BLOCK_M % (64 * GROUPS) == 0, "a group multiplies 64 rows at a time");
  static_assert(PRODUCTS_M * BLOCK_N <= 256, "more sums would not fit in the registers");
  static_assert(BLOCK_K % SLAB == 0 && SLAB % PRODUCT_K == 0, "a step is whole slabs, these whole products");

  static std::string name() {
    return std::string(to_name(kPrecisions, PRECISION)) + "_" + std::to_string(BLOCK_M) + "x" +
           std::to_string(BLOCK_N) + "x" + std::to_string(BLOCK_K) +
           (SLABS > 1 ? "_slabs_of_" + std::to_string(SLAB) : "");
  }
};

// The sums of a part of the columns, as TensorShare reads them: 16 rows of each warp.
template <class Tile>
struct WgmmaEpilogue {
  static constexpr int WARPS_M = Tile::GROUPS * 4, WARPS_N = 1, WARP_M = 16;
  static constexpr int WARP_N = Tile::BLOCK_N % 64 == 0 ? 64 : Tile::BLOCK_N;
  static constexpr int PARTS = Tile::BLOCK_N / WARP_N;
};

// No warp has all the rows of a group, so nothing is reduced here.
template <class Tile>
struct WgmmaShare : TensorShare<WgmmaEpilogue<Tile>> {
  static constexpr bool REDUCES = false;
  using TensorShare<WgmmaEpilogue<Tile>>::TensorShare;
};

// Where the rows and k of an operand's slab are in shared memory.
template <class T, int ROWS, int SLAB, bool ALONG_K, int LINE>
struct WgmmaSlab {
  static constexpr int LINE_BYTES = LINE * sizeof(T);
  static constexpr Swizzle SWIZZLE = LINE_BYTES == 128  ? Swizzle::bytes_128
                                     : LINE_BYTES == 64 ? Swizzle::bytes_64
                                     : LINE_BYTES == 32 ? Swizzle::bytes_32
                                                        : Swizzle::none;
  static_assert(SWIZZLE != Swizzle::none, "lines must be swizzled");
  static_assert(ALONG_K ? LINE == SLAB : ROWS % LINE == 0, "lines must fill a slab");

  T at[ROWS * SLAB];

  __device__ __forceinline__ uint64_t factor(int row, int k) const {
    const T* const first = ALONG_K ? at + row * LINE + k : at + row / LINE * (SLAB * LINE) + k * LINE;
    return ptx::factor<SWIZZLE>(first, 8 * LINE_BYTES, SLAB * LINE_BYTES);
  }
};

template <class Tile, class Pass>
struct alignas(1024) WgmmaMemory {
  using T = typename Tile::Element;
  using SlabA = WgmmaSlab<T, Tile::BLOCK_M, Tile::SLAB, Pass::A_ALONG_K, Pass::A_LINE>;
  using SlabB = WgmmaSlab<T, Tile::BLOCK_N, Tile::SLAB, Pass::B_ALONG_K, Pass::B_LINE>;
  struct Stage {
    SlabA a[Tile::SLABS];
    SlabB b[Tile::SLABS];
  };
  static constexpr uint32_t STAGE_BYTES = sizeof(Stage);
  Stage stage[Tile::STAGES];
  TensorResult<WgmmaEpilogue<Tile>> result;
  ptx::Barrier full[Tile::STAGES], empty[Tile::STAGES];
};

// A stage, and the parity of its phase: that of the round in which the stages are used.
template <int STAGES>
struct WgmmaTurn {
  int stage = 0;
  uint32_t parity = 0;

  __device__ __forceinline__ void advance() {
    if (++stage == STAGES) stage = 0, parity ^= 1;
  }
};

// Starts the copies of a tile's steps. `Memory` has stages of factors and their barriers, as WgmmaMemory.
template <class Tile, class Memory, class Pass>
__device__ __forceinline__ void copy_steps(Memory& memory, const Pass& pass, const GemmBlock& block,
                                           const Steps& steps, WgmmaTurn<Tile::STAGES>& turn) {
  const auto place = pass.place(block);
  uint32_t k = steps.k;
  for (int step = 0; step < steps.count; ++step, turn.advance()) {
    ptx::wait(memory.empty[turn.stage], turn.parity ^ 1);
    ptx::arrive_and_expect(memory.full[turn.stage], Memory::STAGE_BYTES);
    for (int i = 0; i < Tile::SLABS; ++i, k += Tile::SLAB) {
      pass.load_a(memory.stage[turn.stage].a[i].at, memory.full[turn.stage], place, k);
      pass.load_b(memory.stage[turn.stage].b[i].at, memory.full[turn.stage], place, k);
    }
  }
}

template <class Tile, class Memory, class Pass>
__device__ __forceinline__ void copy_tiles(Memory& memory, const Pass& pass, const GemmGrid& grid,
                                           int gemm_k) {
  WgmmaTurn<Tile::STAGES> turn;
  for (uint32_t number = blockIdx.x; number < grid.count(); number += gridDim.x) {
    const GemmBlock block = GemmBlock::make<Tile>(grid, number);
    copy_steps<Tile>(memory, pass, block, block.steps<Tile>(gemm_k, grid.splits), turn);
  }
}

// Sums up the products of `count` steps, whose first stage is that of `turn`.
template <class Tile, class Pass, class Memory>
__device__ __forceinline__ void multiply_steps(Memory& memory, int count, WgmmaTurn<Tile::STAGES>& turn,
                                               float (&sums)[Tile::PRODUCTS_M][Tile::BLOCK_N / 2]) {
  using T = typename Tile::Element;
  const int group = threadIdx.x / kWarpGroup, lane = threadIdx.x % 32;
#pragma unroll
  for (int i = 0; i < Tile::PRODUCTS_M; ++i) {
#pragma unroll
    for (int j = 0; j < Tile::BLOCK_N / 2; ++j) sums[i][j] = 0.0f;
  }
  int before = 0;
  for (int step = 0; step < count; ++step) {
    ptx::wait(memory.full[turn.stage], turn.parity);
    const auto& stage = memory.stage[turn.stage];
    ptx::start_products(sums);
#pragma unroll
    for (int slab = 0; slab < Tile::SLABS; ++slab) {
#pragma unroll
      for (int k = 0; k < Tile::SLAB; k += Tile::PRODUCT_K) {
        const uint64_t b = stage.b[slab].factor(0, k);
#pragma unroll
        for (int i = 0; i < Tile::PRODUCTS_M; ++i) {
          const uint64_t a = stage.a[slab].factor((i * Tile::GROUPS + group) * 64, k);
          ptx::start_product<Tile::BLOCK_N, T, Pass::A_ALONG_K, Pass::B_ALONG_K>(sums[i], a, b);
        }
      }
    }
    ptx::close_product_group();
    // The products of the step before are done, and nothing reads its stage any more.
    ptx::wait_for_products<1>(sums);
    if (step > 0 && lane == 0) ptx::arrive(memory.empty[before]);
    before = turn.stage;
    turn.advance();
  }
  ptx::wait_for_products<0>(sums);
  if (count > 0 && lane == 0) ptx::arrive(memory.empty[before]);
}

template <class Tile, class Pass, class Store>
__device__ __forceinline__ void multiply_tiles(WgmmaMemory<Tile, Pass>& memory, const GemmGrid& grid,
                                               int gemm_k, const Store& store) {
  using Epilogue = WgmmaEpilogue<Tile>;
  const int lane = threadIdx.x % 32;
  float sums[Tile::PRODUCTS_M][Tile::BLOCK_N / 2];
  WgmmaTurn<Tile::STAGES> turn;
  for (uint32_t number = blockIdx.x; number < grid.count(); number += gridDim.x) {
    const GemmBlock block = GemmBlock::make<Tile>(grid, number);
    multiply_steps<Tile, Pass>(memory, block.steps<Tile>(gemm_k, grid.splits).count, turn, sums);
#pragma unroll
    for (int i = 0; i < Tile::PRODUCTS_M; ++i) {
#pragma unroll
      for (int part = 0; part < Epilogue::PARTS; ++part) {
        // What the warp wrote there before has been read.
        __syncwarp();
        float* const to = memory.result.sums[threadIdx.x / 32];
#pragma unroll
        for (int j = 0; j < Epilogue::WARP_N / 4; ++j) {
          const int row = lane / 4 + j % 2 * 8, column = j / 2 * 8 + lane % 4 * 2;
          const float* const pair = sums[i] + part * (Epilogue::WARP_N / 2) + 2 * j;
          cconvnet::store(to + TensorResult<Epilogue>::place_of(row, column), Vector<2>{{pair[0], pair[1]}});
        }
        GemmBlock of = block;
        of.m += i * Tile::GROUPS * 64;
        of.n += part * Epilogue::WARP_N;
        store(WgmmaShare<Tile>(memory.result), of);
      }
    }
  }
}

// By one thread, before the block's __syncthreads().
template <class Tile, class Memory>
__device__ __forceinline__ void init_stages(Memory& memory) {
  for (int stage = 0; stage < Tile::STAGES; ++stage) {
    ptx::init_barrier(memory.full[stage], 1);
    ptx::init_barrier(memory.empty[stage], Tile::GROUPS * 4);
  }
}

// Computes the block's tiles. store(product, block) writes a part of one, whose first row and column the block names.
template <class Tile, class Pass, class Store>
__device__ __forceinline__ void multiply_wgmma_tiles(const Pass& pass, const GemmGrid& grid, int gemm_k,
                                                     const Store& store) {
  auto& memory = launch_shared_memory<WgmmaMemory<Tile, Pass>>();
  if (threadIdx.x == 0) init_stages<Tile>(memory);
  __syncthreads();
  if (threadIdx.x >= Tile::GROUPS * kWarpGroup) {
    ptx::give_registers<Tile::COPYING>();
    if (threadIdx.x / 32 == Tile::GROUPS * 4 && ptx::is_elected()) {
      copy_tiles<Tile>(memory, pass, grid, gemm_k);
    }
  } else {
    ptx::take_registers<Tile::MULTIPLYING>();
    multiply_tiles<Tile>(memory, grid, gemm_k, store);
  }
}

// The number of blocks to launch: one for each of the multiprocessors that kernels use, or for some thirds of them.
// Results do not depend on it.
inline dim3 persistent_blocks(const GemmGrid& grid, int thirds = 3) {
  int count = used_multiprocessors;
  if (count == 0) {
#ifdef __CUDACC__
    int device = 0;
    CCONVNET_CHECK(cudaGetDevice(&device));
    CCONVNET_CHECK(cudaDeviceGetAttribute(&count, cudaDevAttrMultiProcessorCount, device));
#else
    count = emulator::multiprocessors;
#endif
  }
  return dim3(static_cast<unsigned>(std::min<int64_t>(cost::ceil_div(count * thirds, 3), grid.count())));
}

}  // namespace cconvnet
