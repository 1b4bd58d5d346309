// One block's share of the gradient of a convolution of stride 1 by its filters, on the tensor cores of compute capability
// 9.0. The taps of a row of filters read the same pixels in shared memory (halo_tile.cuh).
//
// Channels of x by filters is a product along the stream of pixels for each tap: the pixels of x, `right` pixels on from
// tap to tap, by dy where the windows begin. Where a window of the stream is none of the convolution's, dy is zero. So
// NaN and infinity in x reach the gradients of all taps of their channel, not only of those with a window there.
//
// A tile is CHANNELS of x, a row of TAPS taps and FILTERS. Its groups share either the channels or the filters; each
// multiplies 64 channels at a time. The output lies along the channels, so sums are transposed on their way out.
#pragma once

#include "gemm/halo_tile.cuh"

namespace cconvnet {

// GROUPS_C groups share the channels, the others of two the filters.
template <class T, int GROUPS_C_, int FILTERS_, int TAPS_, int STAGES_>
struct HaloWgradTile {
  using Element = T;
  static constexpr int GROUPS = 2, GROUPS_C = GROUPS_C_, GROUPS_F = GROUPS / GROUPS_C;
  static constexpr int THREADS = (GROUPS + 1) * kWarpGroup;
  static constexpr int CHANNELS = 64 * GROUPS_C, FILTERS = FILTERS_, TAPS = TAPS_;
  static constexpr int COLUMNS = FILTERS / GROUPS_F;  // of a group's products
  static constexpr int BLOCK_M = FILTERS, BLOCK_N = CHANNELS;
  static constexpr int BLOCK_K = 64, PRODUCT_K = 16, STAGES = STAGES_;
  static constexpr int LINE = COLUMNS % 64 == 0   ? 64
                              : COLUMNS % 32 == 0 ? 32
                                                  : 16;  // filters of a line of dy, those of one group
  static constexpr int PIXELS = BLOCK_K + 8, AHEAD = 8;  // of a stage, and most of them behind a step's
  static constexpr int COPYING = 40, MULTIPLYING = 232;

  static_assert(std::is_same_v<T, bfloat16>, "planes are of 8 elements of 2 bytes");
  static_assert(TAPS * COLUMNS / 2 <= 192, "more sums would not fit in the registers");

  static std::string name() {
    return "bf16_" + std::to_string(FILTERS) + "x" + std::to_string(CHANNELS) + "x" +
           std::to_string(BLOCK_K) + "_taps_of_" + std::to_string(TAPS);
  }
};

// The sums of a part of the filters, as TensorShare reads them: rows are filters, and a warp has 16 channels of each.
template <class Tile>
struct HaloWgradEpilogue {
  static constexpr int WARPS_M = Tile::GROUPS_F, WARPS_N = 4 * Tile::GROUPS_C;
  static constexpr int WARP_M = Tile::COLUMNS % 32 == 0 ? 32 : 16, WARP_N = 16;
  static constexpr int PARTS = Tile::COLUMNS / WARP_M;
};

template <class Tile>
struct alignas(1024) HaloWgradMemory {
  using T = typename Tile::Element;
  using Gradients = WgmmaSlab<T, Tile::FILTERS, Tile::BLOCK_K, false, Tile::LINE>;
  struct Stage {
    Gradients gradients;
    T pixels[Tile::CHANNELS / kPlane][Tile::PIXELS * kPlane];
  };
  static constexpr uint32_t STAGE_BYTES = sizeof(Gradients) + sizeof(Stage::pixels);
  Stage stage[Tile::STAGES];
  TensorResult<HaloWgradEpilogue<Tile>> result;
  ptx::Barrier full[Tile::STAGES], empty[Tile::STAGES];
};

// Passes a tile's sums, tap by tap and part by part, to store(product, block, tap).
template <class Tile, class Store>
__device__ __forceinline__ void store_transposed(TensorResult<HaloWgradEpilogue<Tile>>& result,
                                                 const float (&sums)[Tile::TAPS][Tile::COLUMNS / 2],
                                                 const GemmBlock& block, const Store& store) {
  using Epilogue = HaloWgradEpilogue<Tile>;
  const int lane = threadIdx.x % 32, group = threadIdx.x / kWarpGroup;
  float* const to = result.sums[threadIdx.x / 32];
#pragma unroll 1
  for (int number = 0; number < Tile::TAPS * Epilogue::PARTS; ++number) {
    // What the warp wrote there before has been read.
    __syncwarp();
#pragma unroll
    for (int tap = 0; tap < Tile::TAPS; ++tap) {
#pragma unroll
      for (int part = 0; part < Epilogue::PARTS; ++part) {
        if (number != tap * Epilogue::PARTS + part) continue;
#pragma unroll
        for (int j = 0; j < Epilogue::WARP_M / 2; ++j) {
          const int channel = lane / 4 + j / 2 % 2 * 8, filter = j / 4 * 8 + lane % 4 * 2 + j % 2;
          to[TensorResult<Epilogue>::place_of(filter, channel)] =
              sums[tap][part * (Epilogue::WARP_M / 2) + j];
        }
      }
    }
    GemmBlock of = block;
    // A share begins at its own group's rows, of one part.
    of.m += number % Epilogue::PARTS * Epilogue::WARP_M +
            group / Tile::GROUPS_C * (Tile::COLUMNS - Epilogue::WARP_M);
    store(WgmmaShare<Epilogue, 1>(result), of, number / Epilogue::PARTS);
  }
}

// Computes the block's tiles. `pass` has
//   Place place(const GemmBlock&) const;                    all that it can compute once for a tile
//   void load(Stage&, Barrier&, const Place&, uint32_t position) const;
//                                                           start the copies of a step, from a position of the stream on
// store(product, block, tap) writes a part of a tile: of its row's `tap`, from the filter block.m on.
template <class Tile, class Pass, class Store>
__device__ __forceinline__ void multiply_halo_wgrad(const Pass& pass, const GemmGrid& grid, int positions,
                                                    int right, const Store& store) {
  using T = typename Tile::Element;
  using Memory = HaloWgradMemory<Tile>;
  constexpr uint32_t PLANE_BYTES = sizeof(Memory::Stage::pixels[0]), PIXEL_BYTES = kPlane * sizeof(T);
  auto& memory = launch_shared_memory<Memory>();
  if (threadIdx.x == 0) init_ring(memory.full, memory.empty, Tile::GROUPS * 4);
  __syncthreads();

  const auto copy = [&] {
    WgmmaTurn<Tile::STAGES> turn;
    for (uint32_t number = blockIdx.x; number < grid.count(); number += gridDim.x) {
      const GemmBlock block = GemmBlock::make<Tile>(grid, number);
      const Steps steps = block.steps<Tile>(positions, grid.splits);
      const auto place = pass.place(block);
      for (int step = 0; step < steps.count; ++step, turn.advance()) {
        ptx::wait(memory.empty[turn.stage], turn.parity ^ 1);
        ptx::arrive_and_expect(memory.full[turn.stage], Memory::STAGE_BYTES);
        pass.load(memory.stage[turn.stage], memory.full[turn.stage], place, steps.k + step * Tile::BLOCK_K);
      }
    }
  };

  const auto multiply = [&] {
    const int group = threadIdx.x / kWarpGroup, lane = threadIdx.x % 32;
    const int first_plane = group % Tile::GROUPS_C * (64 / kPlane);
    const int first_filter = group / Tile::GROUPS_C * Tile::COLUMNS;
    float sums[Tile::TAPS][Tile::COLUMNS / 2];
    WgmmaTurn<Tile::STAGES> turn;
    for (uint32_t number = blockIdx.x; number < grid.count(); number += gridDim.x) {
      const GemmBlock block = GemmBlock::make<Tile>(grid, number);
      const Steps steps = block.steps<Tile>(positions, grid.splits);
#pragma unroll
      for (int tap = 0; tap < Tile::TAPS; ++tap) {
#pragma unroll
        for (int j = 0; j < Tile::COLUMNS / 2; ++j) sums[tap][j] = 0.0f;
      }
      int before = 0;
      for (int step = 0; step < steps.count; ++step) {
        ptx::wait(memory.full[turn.stage], turn.parity);
        const auto& stage = memory.stage[turn.stage];
        ptx::start_products(sums);
#pragma unroll
        for (int k = 0; k < Tile::BLOCK_K; k += Tile::PRODUCT_K) {
          const uint64_t b = stage.gradients.factor(first_filter, k);
          uint64_t a = ptx::factor<Swizzle::none>(stage.pixels[first_plane] + k * kPlane, PLANE_BYTES,
                                                  8 * PIXEL_BYTES);
#pragma unroll
          for (int tap = 0; tap < Tile::TAPS; ++tap) {
            ptx::start_product<Tile::COLUMNS, T, false, false>(sums[tap], a, b);
            a = ptx::advanced(a, right * PIXEL_BYTES);
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
      if (steps.count > 0 && lane == 0) ptx::arrive(memory.empty[before]);
      store_transposed<Tile>(memory.result, sums, block, store);
    }
  };

  divide_roles<Tile>(copy, multiply);
}

}  // namespace cconvnet
