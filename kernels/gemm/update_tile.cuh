// One block's share of the gradient of weights, a product of warp groups (wgmma_tile.cuh), and of the update of these
// weights. Their state, w and v, is as large as the gradient and many times as large as the factors, so that memory
// bounds the kernel. The copy engine streams the state through shared memory: while the tensor cores multiply and
// threads update, loads of the next parts and stores of the last are on their way.
//
// A block has three warp groups, as in wgmma_tile.cuh. Of the last, one lane copies factors, and one of another warp
// weights. The two others multiply 64 rows each. Then they update their rows, part by part: the sums stay in registers,
// a part of the weights comes to a stage of shared memory, is updated there and leaves from there. A stage that has left
// may be filled again, so each group has a ring of its own.
#pragma once

#include "gemm/wgmma_tile.cuh"

namespace cconvnet {

// A part of the weights of a group's rows. Lines are of 32 columns: of 128 bytes, and of 64 where they are rounded.
struct alignas(1024) StreamedWeights {
  static constexpr int ROWS = 64, COLUMNS = 32, COUNT = ROWS * COLUMNS;
  static constexpr Swizzle SWIZZLE = Swizzle::bytes_128, ROUNDED_SWIZZLE = Swizzle::bytes_64;
  static constexpr uint32_t LOADED_BYTES = 2 * COUNT * sizeof(float);

  float w[COUNT], v[COUNT];
  bfloat16 rounded[COUNT];
};

template <class Tile, class Pass, int WEIGHT_STAGES_>
struct alignas(1024) UpdateMemory {
  using Factors = WgmmaMemory<Tile, Pass>;
  static constexpr uint32_t STAGE_BYTES = Factors::STAGE_BYTES;
  static constexpr int WEIGHT_STAGES = WEIGHT_STAGES_;
  typename Factors::Stage stage[Tile::STAGES];
  StreamedWeights weights[WEIGHT_STAGES][Tile::GROUPS];
  ptx::Barrier full[Tile::STAGES], empty[Tile::STAGES];
  ptx::Barrier came[WEIGHT_STAGES][Tile::GROUPS], left[WEIGHT_STAGES][Tile::GROUPS];
};

// Of w and v, and of w as products read it; without an update `w` is of the gradient, and only written.
struct WeightMaps {
  const TensorMap &w, &v, &rounded;
};

// Starts to load the parts of the block's tiles, in the order in which they are updated. Of a gradient that is only
// stored nothing is loaded, and a stage has come as soon as it is free.
template <class Tile, bool UPDATES, class Memory>
__device__ __forceinline__ void copy_weights(Memory& memory, const WeightMaps& maps, const GemmGrid& grid) {
  WgmmaTurn<Memory::WEIGHT_STAGES> turn;
  for (uint32_t number = blockIdx.x; number < grid.count(); number += gridDim.x) {
    const GemmBlock block = GemmBlock::make<Tile>(grid, number);
    for (int n = 0; n < Tile::BLOCK_N; n += StreamedWeights::COLUMNS, turn.advance()) {
      for (int group = 0; group < Tile::GROUPS; ++group) {
        ptx::Barrier& came = memory.came[turn.stage][group];
        ptx::wait(memory.left[turn.stage][group], turn.parity ^ 1);
        if constexpr (UPDATES) {
          StreamedWeights& weights = memory.weights[turn.stage][group];
          const int x = static_cast<int>(block.n) + n;
          const int y = static_cast<int>(block.m) + group * StreamedWeights::ROWS;
          ptx::arrive_and_expect(came, StreamedWeights::LOADED_BYTES);
          ptx::load_box(weights.w, maps.w, came, x, y);
          ptx::load_box(weights.v, maps.v, came, x, y);
        } else {
          ptx::arrive(came);
        }
      }
    }
  }
}

// Updates a part of the weights, whose gradients are the sums of 32 columns; without an update it becomes them.
//
// A lane has pairs of neighbouring columns, one in each block of eight. Lines begin on the same banks, and their
// swizzle moves four neighbouring ones to two places. So lanes of odd rows go through the blocks in another order.
template <bool UPDATES>
__device__ __forceinline__ void update_part(StreamedWeights& weights, const float* sums,
                                            const SgdRates& rates) {
  const uint32_t lane = threadIdx.x % 32, row = threadIdx.x / 32 % 4 * 16 + lane / 4, odd = row % 2;
  const uint32_t pair = swizzled(StreamedWeights::SWIZZLE, row * 128 + odd * 64 + lane % 4 * 8);
  const uint32_t rounded_pair =
      swizzled(StreamedWeights::ROUNDED_SWIZZLE, row * 64 + odd * 32 + lane % 4 * 4);
  const auto at = [](auto* begin, uint32_t byte) { return begin + byte / sizeof(*begin); };
#pragma unroll
  for (int half = 0; half < 2; ++half) {
#pragma unroll
    for (int block = 0; block < StreamedWeights::COLUMNS / 8; ++block) {
      Vector<2> gradient;
#pragma unroll
      for (int i = 0; i < 2; ++i) {
        gradient.lane[i] = odd ? sums[(block ^ 2) * 4 + half * 2 + i] : sums[block * 4 + half * 2 + i];
      }
      // Eight rows on, the swizzle is the same.
      float* const w = at(weights.w, (pair ^ block * 32) + half * 1024);
      if constexpr (UPDATES) {
        float* const v = at(weights.v, (pair ^ block * 32) + half * 1024);
        SgdState<2> state = {load<2>(v), load<2>(w)};
        SgdStep::advance(rates, state, gradient);
        store(v, state.v);
        store(w, state.w);
        store(at(weights.rounded, (rounded_pair ^ block * 16) + half * 512), state.w);
      } else {
        store(w, gradient);
      }
    }
  }
}

template <class Tile, class Pass, bool UPDATES, class Memory>
__device__ __forceinline__ void update_tiles(Memory& memory, const WeightMaps& maps, const GemmGrid& grid,
                                             int gemm_k, const SgdRates& rates, bool rounds) {
  const int group = threadIdx.x / kWarpGroup;
  const bool stores = threadIdx.x % kWarpGroup == 0;
  float sums[Tile::PRODUCTS_M][Tile::BLOCK_N / 2];
  static_assert(Tile::PRODUCTS_M == 1, "a group's rows are those of a part");
  WgmmaTurn<Tile::STAGES> turn;
  WgmmaTurn<Memory::WEIGHT_STAGES> place;
  int before = -1;
  for (uint32_t number = blockIdx.x; number < grid.count(); number += gridDim.x) {
    const GemmBlock block = GemmBlock::make<Tile>(grid, number);
    multiply_steps<Tile, Pass>(memory, block.steps<Tile>(gemm_k, grid.splits).count, turn, sums);
#pragma unroll
    for (int n = 0; n < Tile::BLOCK_N; n += StreamedWeights::COLUMNS, place.advance()) {
      StreamedWeights& weights = memory.weights[place.stage][group];
      ptx::wait(memory.came[place.stage][group], place.parity);
      update_part<UPDATES>(weights, sums[0] + n / 2, rates);
      ptx::meet<kWarpGroup>(1 + group);
      if (stores) {
        const int x = static_cast<int>(block.n) + n;
        const int y = static_cast<int>(block.m) + group * StreamedWeights::ROWS;
        ptx::store_box(weights.w, maps.w, x, y);
        if (UPDATES) ptx::store_box(weights.v, maps.v, x, y);
        if (UPDATES && rounds) ptx::store_box(weights.rounded, maps.rounded, x, y);
        ptx::close_store_group();
        // The part before has left its stage.
        ptx::wait_for_stores<1>();
        if (before >= 0) ptx::arrive(memory.left[before][group]);
      }
      before = place.stage;
    }
  }
  if (stores) ptx::wait_for_stores<0>();
}

// Computes the block's tiles of the gradient, and updates their weights. `rounds`: there is a copy of bfloat16s.
template <class Tile, class Memory, bool UPDATES, class Pass>
__device__ __forceinline__ void update_wgmma_tiles(const Pass& pass, const WeightMaps& maps,
                                                   const GemmGrid& grid, int gemm_k, const SgdStep& step,
                                                   bool rounds) {
  if (step.halted()) return;
  auto& memory = launch_shared_memory<Memory>();
  if (threadIdx.x == 0) {
    init_stages<Tile>(memory);
    for (int stage = 0; stage < Memory::WEIGHT_STAGES; ++stage) {
      for (int group = 0; group < Tile::GROUPS; ++group) {
        ptx::init_barrier(memory.came[stage][group], 1);
        ptx::init_barrier(memory.left[stage][group], 1);
      }
    }
  }
  __syncthreads();
  if (threadIdx.x >= Tile::GROUPS * kWarpGroup) {
    ptx::give_registers<Tile::COPYING>();
    const int warp = threadIdx.x / 32 - Tile::GROUPS * 4;
    if (warp == 0 && ptx::is_elected()) copy_tiles<Tile>(memory, pass, grid, gemm_k);
    if (warp == 1 && ptx::is_elected()) copy_weights<Tile, UPDATES>(memory, maps, grid);
  } else {
    ptx::take_registers<Tile::MULTIPLYING>();
    update_tiles<Tile, Pass, UPDATES>(memory, maps, grid, gemm_k, step.rates(), rounds);
  }
}

}  // namespace cconvnet
