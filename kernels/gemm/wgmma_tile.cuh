// One block's share of a matrix product C[m,n] = sum over k of A[m,k] * B[n,k] on the tensor cores of compute capability
// 9.0, which read their factors from shared memory (wgmma), where the copy engine puts them.
//
// A block has three warp groups. One lane of the last starts copies, tile after tile and step after step, as far ahead
// as there are stages. The two others multiply, 64 rows at a time, and write their sums while the copies of the next
// tile arrive. There are as many blocks as multiprocessors, and the tiles are dealt out to them in turn, so that each
// block fills its pipeline once. Barriers in shared memory order copies and products: a stage is full when all its bytes have come,
// and empty when all warps have multiplied it.
//
// Blocks may come in pairs, clusters of two whose tiles are neighbours. An operand that both need is then loaded once:
// each block loads half of it for both. So a stage is empty when the warps of both blocks have multiplied it.
//
// A step of BLOCK_K is a few slabs of SLAB. The copies of a slab are those of one tap, so that a slab may be as short as
// 16 channels where a group has 48. In shared memory an operand's slab consists of lines, as the copy engine writes them:
// along k each row is a line; across k each k has lines of LINE neighbouring rows.
//
// A pass of the convolution is a class with
//   static constexpr bool A_ALONG_K, B_ALONG_K;
//   static constexpr int A_LINE, B_LINE;            elements of a line
//   Place place(const GemmBlock&) const;            all that it can compute once for a tile
//   void load_a(T* slab, const To&, const Place&, uint32_t k) const;
//   void load_b(...) const;                         start the copies of A_ROWS or B_ROWS rows of a slab, all of whose
//                                                   bytes come to a barrier: that of the block, or of both blocks of a
//                                                   pair (Multicast); zeros of a slab behind the end
#pragma once

#include "core/cluster.cuh"
#include "core/copy_engine.cuh"
#include "core/multiprocessors.h"
#include "core/wgmma.cuh"
#include "gemm/implicit_gemm.cuh"

namespace cconvnet {

constexpr int kWarpGroup = 128;  // threads

// How blocks come in pairs: their tiles are neighbours along m, which share B, or along n, which share A.
enum class Pairing { none, along_m, along_n };

template <class T, int BLOCK_M_, int BLOCK_N_, int SLAB_, int STAGES_, Pairing PAIRING_ = Pairing::none>
struct WgmmaTile {
  using Element = T;
  static constexpr bool TENSOR = true, WARP_GROUPS = true;
  static constexpr Precision PRECISION = std::is_same_v<T, bfloat16> ? Precision::bf16 : Precision::tf32;
  static constexpr int BLOCK_M = BLOCK_M_, BLOCK_N = BLOCK_N_, SLAB = SLAB_, STAGES = STAGES_;
  static constexpr int BLOCK_K = 128 / sizeof(T), SLABS = BLOCK_K / SLAB;
  static constexpr int PRODUCT_K = 32 / sizeof(T);  // of one wgmma
  static constexpr int GROUPS = 2, THREADS = (GROUPS + 1) * kWarpGroup;
  static constexpr int PRODUCTS_M = BLOCK_M / (64 * GROUPS);  // of a group
  static constexpr Pairing PAIRING = PAIRING_;
  static constexpr bool PAIRED = PAIRING != Pairing::none;
  static constexpr int CLUSTER = PAIRED ? 2 : 1;  // blocks
  // The rows of each operand that a block loads.
  static constexpr int A_ROWS = PAIRING == Pairing::along_n ? BLOCK_M / 2 : BLOCK_M;
  static constexpr int B_ROWS = PAIRING == Pairing::along_m ? BLOCK_N / 2 : BLOCK_N;
  // What the blocks of a cluster multiply together, in which the grid counts.
  struct Cluster {
    static constexpr int BLOCK_M = PAIRING == Pairing::along_m ? 2 * BLOCK_M_ : BLOCK_M_;
    static constexpr int BLOCK_N = PAIRING == Pairing::along_n ? 2 * BLOCK_N_ : BLOCK_N_;
  };
  // Registers of the threads that copy and of those that multiply: 64 Ki together.
  static constexpr int COPYING = PAIRED ? 56 : 40, MULTIPLYING = PAIRED ? 224 : 232;

  static_assert(BLOCK_M % (64 * GROUPS) == 0, "a group multiplies 64 rows at a time");
  static_assert(PRODUCTS_M * BLOCK_N <= 256, "more sums would not fit in the registers");
  static_assert(BLOCK_K % SLAB == 0 && SLAB % PRODUCT_K == 0, "a step is whole slabs, these whole products");

  static std::string name() {
    return std::string(to_name(kPrecisions, PRECISION)) + "_" + std::to_string(BLOCK_M) + "x" +
           std::to_string(BLOCK_N) + "x" + std::to_string(BLOCK_K) +
           (SLABS > 1 ? "_slabs_of_" + std::to_string(SLAB) : "") +
           (PAIRING == Pairing::along_m   ? "_pairs_along_m"
            : PAIRING == Pairing::along_n ? "_pairs_along_n"
                                          : "");
  }
};

// The sums of a part of the columns, as TensorShare reads them: 16 rows of each warp.
template <class Tile>
struct WgmmaEpilogue {
  static constexpr int WARPS_M = Tile::GROUPS * 4, WARPS_N = 1, WARP_M = 16;
  static constexpr int WARP_N = Tile::BLOCK_N % 64 == 0 ? 64 : Tile::BLOCK_N;
  static constexpr int PARTS = Tile::BLOCK_N / WARP_N;
};

// No warp has all the rows of a group, so nothing is reduced here. Registers limit the rows that are read ahead.
template <class Epilogue, int MOST_AHEAD = 4>
struct WgmmaShare : TensorShare<Epilogue> {
  static constexpr bool REDUCES = false;
  static constexpr int AHEAD = std::min(MOST_AHEAD, TensorShare<Epilogue>::AHEAD);
  using TensorShare<Epilogue>::TensorShare;
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

  // Rows from one on, the first of a line if lines are across k.
  __device__ __forceinline__ T* from(int row) {
    return at + (ALONG_K ? row * LINE : row / LINE * (SLAB * LINE));
  }

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
  static_assert(Pass::A_ALONG_K || Tile::A_ROWS % Pass::A_LINE == 0, "a block must load whole lines");
  static_assert(Pass::B_ALONG_K || Tile::B_ROWS % Pass::B_LINE == 0, "a block must load whole lines");
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

// The number of a block in its cluster; of all blocks it is `number`, and so it is of the next that it stands for.
template <class Tile>
__device__ __forceinline__ uint32_t cluster_rank(uint32_t number) {
  return Tile::PAIRED ? number % Tile::CLUSTER : 0;
}

// A block's tile of those that its cluster multiplies. It may be outside: then it is of zeros, and nothing is stored.
template <class Tile>
__device__ __forceinline__ GemmBlock tile_of(const GemmGrid& grid, uint32_t number) {
  GemmBlock block = GemmBlock::make<typename Tile::Cluster>(grid, number / Tile::CLUSTER);
  if constexpr (Tile::PAIRING == Pairing::along_m) block.m += cluster_rank<Tile>(number) * Tile::BLOCK_M;
  if constexpr (Tile::PAIRING == Pairing::along_n) block.n += cluster_rank<Tile>(number) * Tile::BLOCK_N;
  return block;
}

// Where an operand's rows arrive: in this block, or in both of a pair that shares it.
template <bool SHARED>
__device__ __forceinline__ decltype(auto) destination_of(ptx::Barrier& full) {
  if constexpr (SHARED) {
    return ptx::Multicast{full, 3};
  } else {
    return (full);
  }
}

// Starts the copies of a tile's steps, by the block of this number in its cluster. `Memory` has stages of factors and
// their barriers, as WgmmaMemory.
template <class Tile, class Memory, class Pass>
__device__ __forceinline__ void copy_steps(Memory& memory, const Pass& pass, GemmBlock block,
                                           const Steps& steps, WgmmaTurn<Tile::STAGES>& turn,
                                           uint32_t rank = 0) {
  constexpr bool A_SHARED = Tile::PAIRING == Pairing::along_n, B_SHARED = Tile::PAIRING == Pairing::along_m;
  // Of an operand that is shared, this block's half.
  const uint32_t a_row = A_SHARED ? rank * Tile::A_ROWS : 0, b_row = B_SHARED ? rank * Tile::B_ROWS : 0;
  block.m += a_row;
  block.n += b_row;
  const auto place = pass.place(block);
  uint32_t k = steps.k;
  for (int step = 0; step < steps.count; ++step, turn.advance()) {
    auto& stage = memory.stage[turn.stage];
    auto& full = memory.full[turn.stage];
    ptx::wait(memory.empty[turn.stage], turn.parity ^ 1);
    // The other block's half may come before this: then fewer bytes than none are missing.
    ptx::arrive_and_expect(full, Memory::STAGE_BYTES);
    for (int i = 0; i < Tile::SLABS; ++i, k += Tile::SLAB) {
      pass.load_a(stage.a[i].from(a_row), destination_of<A_SHARED>(full), place, k);
      pass.load_b(stage.b[i].from(b_row), destination_of<B_SHARED>(full), place, k);
    }
  }
}

template <class Tile, class Memory, class Pass>
__device__ __forceinline__ void copy_tiles(Memory& memory, const Pass& pass, const GemmGrid& grid,
                                           int gemm_k) {
  WgmmaTurn<Tile::STAGES> turn;
  for (uint32_t number = blockIdx.x; number / Tile::CLUSTER < grid.count(); number += gridDim.x) {
    const GemmBlock block = tile_of<Tile>(grid, number);
    copy_steps<Tile>(memory, pass, block, block.steps<Tile>(gemm_k, grid.splits), turn,
                     cluster_rank<Tile>(number));
  }
}

// By each multiplying warp, of which no product reads the stage any more.
template <class Tile, class Memory>
__device__ __forceinline__ void release(Memory& memory, int stage) {
  const int lane = threadIdx.x % 32;
  if (lane >= Tile::CLUSTER) return;
  if constexpr (Tile::PAIRED) {
    ptx::arrive_in_block(memory.empty[stage], lane);
  } else {
    ptx::arrive(memory.empty[stage]);
  }
}

// Sums up the products of `count` steps, whose first stage is that of `turn`.
template <class Tile, class Pass, class Memory>
__device__ __forceinline__ void multiply_steps(Memory& memory, int count, WgmmaTurn<Tile::STAGES>& turn,
                                               float (&sums)[Tile::PRODUCTS_M][Tile::BLOCK_N / 2]) {
  using T = typename Tile::Element;
  const int group = threadIdx.x / kWarpGroup;
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
    if (step > 0) release<Tile>(memory, before);
    before = turn.stage;
    turn.advance();
  }
  ptx::wait_for_products<0>(sums);
  if (count > 0) release<Tile>(memory, before);
}

// Passes a tile's sums, part by part, to store(product, block).
template <class Tile, class Store>
__device__ __forceinline__ void store_sums(TensorResult<WgmmaEpilogue<Tile>>& result,
                                           const float (&sums)[Tile::PRODUCTS_M][Tile::BLOCK_N / 2],
                                           const GemmBlock& block, const Store& store) {
  using Epilogue = WgmmaEpilogue<Tile>;
  const int lane = threadIdx.x % 32;
  float* const to = result.sums[threadIdx.x / 32];
  // The registers of a part are known to the compiler, what is done with them is written once.
#pragma unroll 1
  for (int number = 0; number < Tile::PRODUCTS_M * Epilogue::PARTS; ++number) {
    // What the warp wrote there before has been read.
    __syncwarp();
#pragma unroll
    for (int i = 0; i < Tile::PRODUCTS_M; ++i) {
#pragma unroll
      for (int part = 0; part < Epilogue::PARTS; ++part) {
        if (number != i * Epilogue::PARTS + part) continue;
#pragma unroll
        for (int j = 0; j < Epilogue::WARP_N / 4; ++j) {
          const int row = lane / 4 + j % 2 * 8, column = j / 2 * 8 + lane % 4 * 2;
          const float* const pair = sums[i] + part * (Epilogue::WARP_N / 2) + 2 * j;
          cconvnet::store(to + TensorResult<Epilogue>::place_of(row, column), Vector<2>{{pair[0], pair[1]}});
        }
      }
    }
    GemmBlock of = block;
    of.m += number / Epilogue::PARTS * (Tile::GROUPS * 64);
    of.n += number % Epilogue::PARTS * Epilogue::WARP_N;
    store(WgmmaShare<Epilogue>(result), of);
  }
}

template <class Tile, class Pass, class Store>
__device__ __forceinline__ void multiply_tiles(WgmmaMemory<Tile, Pass>& memory, const GemmGrid& grid,
                                               int gemm_k, const Store& store) {
  float sums[Tile::PRODUCTS_M][Tile::BLOCK_N / 2];
  WgmmaTurn<Tile::STAGES> turn;
  for (uint32_t number = blockIdx.x; number / Tile::CLUSTER < grid.count(); number += gridDim.x) {
    const GemmBlock block = tile_of<Tile>(grid, number);
    multiply_steps<Tile, Pass>(memory, block.steps<Tile>(gemm_k, grid.splits).count, turn, sums);
    store_sums<Tile>(memory.result, sums, block, store);
  }
}

// By all threads of the block, or of both blocks of a pair.
template <class Tile>
__device__ __forceinline__ void meet_cluster() {
  if constexpr (Tile::PAIRED) {
    ptx::arrive_at_cluster();
    ptx::wait_for_cluster();
  } else {
    __syncthreads();
  }
}

// A ring's barriers: the copying lane arrives at one, so many multiplying warps at the other. By one thread, before the
// block's __syncthreads(), or the barrier of its cluster.
template <int STAGES>
__device__ __forceinline__ void init_ring(ptx::Barrier (&full)[STAGES], ptx::Barrier (&empty)[STAGES],
                                          int warps) {
  for (int stage = 0; stage < STAGES; ++stage) {
    ptx::init_barrier(full[stage], 1);
    ptx::init_barrier(empty[stage], warps);
  }
}
template <class Tile, class Memory>
__device__ __forceinline__ void init_stages(Memory& memory) {
  init_ring(memory.full, memory.empty, Tile::CLUSTER * Tile::GROUPS * 4);
}

// Divides a block: a lane of the last group calls copy(), the threads of the others multiply().
template <class Tile, class Copy, class Multiply>
__device__ __forceinline__ void divide_roles(const Copy& copy, const Multiply& multiply) {
  if (threadIdx.x >= Tile::GROUPS * kWarpGroup) {
    ptx::give_registers<Tile::COPYING>();
    if (threadIdx.x / 32 == Tile::GROUPS * 4 && ptx::is_elected()) copy();
  } else {
    ptx::take_registers<Tile::MULTIPLYING>();
    multiply();
  }
}

// Computes the block's tiles. store(product, block) writes a part of one, whose first row and column the block names.
template <class Tile, class Pass, class Store>
__device__ __forceinline__ void multiply_wgmma_tiles(const Pass& pass, const GemmGrid& grid, int gemm_k,
                                                     const Store& store) {
  auto& memory = launch_shared_memory<WgmmaMemory<Tile, Pass>>();
  if (threadIdx.x == 0) init_stages<Tile>(memory);
  meet_cluster<Tile>();
  divide_roles<Tile>([&] { copy_tiles<Tile>(memory, pass, grid, gemm_k); },
                     [&] { multiply_tiles<Tile>(memory, grid, gemm_k, store); });
  // The other block's warps still arrive at this one's barriers.
  if constexpr (Tile::PAIRED) meet_cluster<Tile>();
}

// The number of blocks to launch: one for each of the multiprocessors that kernels use, or for some thirds of them, in
// whole clusters. Results do not depend on it.
inline dim3 persistent_blocks(const GemmGrid& grid, int thirds = 3, int cluster = 1) {
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
  const int64_t clusters = std::max<int64_t>(cost::ceil_div(count * thirds, 3) / cluster, 1);
  return dim3(static_cast<unsigned>(std::min<int64_t>(clusters, grid.count()) * cluster));
}

}  // namespace cconvnet
