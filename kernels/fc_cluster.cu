// FC layers whose sums are split, for compute capability 9.0: the splits of a tile are the blocks of a cluster, which read
// each other's shared memory. So neither a workspace nor another launch is needed. The number of splits, and the order
// in which they are added, are those of the other rows.
//
// A block multiplies its split of one tile (gemm/wgmma_tile.cuh) and leaves its sums in shared memory. When all blocks of
// the cluster have, each adds up the splits of its share of the tile and applies the epilogue.
#include "core/cluster.cuh"
#include "gemm/matrix_pass.cuh"

namespace cconvnet {
namespace {

constexpr int kMostSplits = 8;  // as many blocks as a cluster may have

template <class Tile, class Pass>
struct alignas(1024) ClusterMemory {
  using Factors = WgmmaMemory<Tile, Pass>;
  static constexpr uint32_t STAGE_BYTES = Factors::STAGE_BYTES;
  static constexpr int GROUPS_N = Tile::BLOCK_N / kGroup;
  typename Factors::Stage stage[Tile::STAGES];
  Vector<kGroup> sums[Tile::BLOCK_M * GROUPS_N];
  ptx::Barrier full[Tile::STAGES], empty[Tile::STAGES];

  // Permuted as in TensorResult: rows begin on the same banks.
  static __device__ __forceinline__ int place_of(int row, int group) {
    return (row * GROUPS_N + group) ^ (row % 4 * 2);
  }
};

template <class Output>
struct ClusterParameters {
  GemmSize size;
  GemmGrid grid;
  Output output;
};

template <class Tile, class Memory>
__device__ __forceinline__ void keep_sums(Memory& memory, const float (&sums)[Tile::BLOCK_N / 2]) {
  const int lane = threadIdx.x % 32;
#pragma unroll
  for (int j = 0; j < Tile::BLOCK_N / 4; ++j) {
    const int row = threadIdx.x / 32 * 16 + lane / 4 + j % 2 * 8, column = j / 2 * 8 + lane % 4 * 2;
    float* const group = memory.sums[Memory::place_of(row, column / kGroup)].lane;
    store(group + column % kGroup, Vector<2>{{sums[2 * j], sums[2 * j + 1]}});
  }
}

// Adds up this block's share of a tile: every so-manieth group of columns, all of which are whole.
template <class Tile, class Memory, class Output>
__device__ __forceinline__ void add_splits(const Memory& memory, const GemmBlock& block,
                                           const ClusterParameters<Output>& args) {
  constexpr int THREADS = Tile::GROUPS * kWarpGroup, COUNT = Tile::BLOCK_M * Memory::GROUPS_N;
  const auto& writer = args.output.writer();
  for (int i = block.split * THREADS + threadIdx.x; i < COUNT; i += args.grid.splits * THREADS) {
    const int row = i / Memory::GROUPS_N, group = i % Memory::GROUPS_N;
    const int m = block.m + row, n = block.n + group * kGroup;
    if (m >= args.size.m || n >= args.size.n) continue;
    Vector<kGroup> part[kMostSplits];
#pragma unroll
    for (int split = 0; split < kMostSplits; ++split) {
      if (split < static_cast<int>(args.grid.splits)) {
        part[split] = ptx::load_from_block(memory.sums[Memory::place_of(row, group)], split);
      }
    }
#pragma unroll
    for (int split = 1; split < kMostSplits; ++split) {
      if (split < static_cast<int>(args.grid.splits)) add_to(part[0], part[split]);
    }
    const uint32_t to = static_cast<uint32_t>(m) * args.size.n + n;
    if (args.output.vectors) {
      write_alone(writer, to, n, part[0]);
      continue;
    }
#pragma unroll
    for (int lane = 0; lane < kGroup; ++lane) {
      write_alone(writer, to + lane, n + lane, Vector<1>{{part[0].lane[lane]}});
    }
  }
}

// Of all threads of all blocks.
__device__ __forceinline__ void meet_cluster() {
  ptx::arrive_at_cluster();
  ptx::wait_for_cluster();
}

template <class Tile, class Pass, class Output>
__device__ __forceinline__ void multiply_in_cluster(const Pass& pass, const ClusterParameters<Output>& args) {
  using Memory = ClusterMemory<Tile, Pass>;
  auto& memory = launch_shared_memory<Memory>();
  if (threadIdx.x == 0) init_stages<Tile>(memory);
  __syncthreads();
  const uint32_t tiles = args.grid.tiles_m * args.grid.tiles_n;
  const GemmBlock block =
      GemmBlock::make<Tile>(args.grid, ptx::block_of_cluster() * tiles + blockIdx.x / args.grid.splits);
  const Steps steps = block.steps<Tile>(args.size.k, args.grid.splits);
  WgmmaTurn<Tile::STAGES> turn;
  if (threadIdx.x >= Tile::GROUPS * kWarpGroup) {
    ptx::give_registers<Tile::COPYING>();
    if (threadIdx.x / 32 == Tile::GROUPS * 4 && ptx::is_elected()) {
      copy_steps<Tile>(memory, pass, block, steps, turn);
    }
    meet_cluster();
  } else {
    ptx::take_registers<Tile::MULTIPLYING>();
    float sums[Tile::PRODUCTS_M][Tile::BLOCK_N / 2];
    static_assert(Tile::PRODUCTS_M == 1, "a group multiplies 64 rows");
    multiply_steps<Tile, Pass>(memory, steps.count, turn, sums);
    keep_sums<Tile>(memory, sums[0]);
    meet_cluster();
    add_splits<Tile>(memory, block, args);
  }
  // The sums stay until all blocks have read them.
  meet_cluster();
}

using ClusterTile = WgmmaTile<bfloat16, 128, 128, 64, 4>;
using FpropPass = MatrixPass<ClusterTile, true, true>;
using DgradPass = MatrixPass<ClusterTile, true, false>;

template <class Tile>
__global__ void __launch_bounds__(Tile::THREADS, 1)
    fc_fprop_wgmma_cluster(CCONVNET_MAP x, CCONVNET_MAP w,
                           const ClusterParameters<EpilogueOutput<bfloat16>> args) {
  multiply_in_cluster<Tile>(FpropPass{x, w}, args);
}

template <class Tile>
__global__ void __launch_bounds__(Tile::THREADS, 1)
    fc_dgrad_wgmma_cluster(CCONVNET_MAP dy, CCONVNET_MAP w,
                           const ClusterParameters<InputGradientOutput<bfloat16>> args) {
  multiply_in_cluster<Tile>(DgradPass{dy, w}, args);
}

GemmSize dgrad_size(const ConvProblem& problem) {
  return {problem.n, problem.c, problem.k, 1, problem.precision};
}

void launch_fprop(const ConvProblem& problem, const FpropArguments& args, Stream stream) {
  const GemmSize size = fprop_size(problem);
  const GemmGrid grid = GemmGrid::make<ClusterTile>(size);
  const EpilogueOutput<bfloat16> output = fprop_output<bfloat16>(problem, args);
  CCONVNET_LAUNCH_90_WITH(LaunchOptions{grid.splits}, (fc_fprop_wgmma_cluster<ClusterTile>), grid.blocks(),
                          ClusterTile::THREADS, sizeof(ClusterMemory<ClusterTile, FpropPass>), stream,
                          FpropPass::map_a(args.x, size), FpropPass::map_b(args.w, size),
                          ClusterParameters<EpilogueOutput<bfloat16>>{size, grid, output});
  output.after(args.epilogue, stream);
}

void launch_dgrad(const ConvProblem& problem, const DgradArguments& args, Stream stream) {
  const GemmSize size = dgrad_size(problem);
  const GemmGrid grid = GemmGrid::make<ClusterTile>(size);
  bfloat16* const dx = static_cast<bfloat16*>(args.dx);
  const InputGradientOutput<bfloat16> output(args.epilogue, dx, whole_groups(size.n, dx), nullptr);
  CCONVNET_LAUNCH_90_WITH(LaunchOptions{grid.splits}, (fc_dgrad_wgmma_cluster<ClusterTile>), grid.blocks(),
                          ClusterTile::THREADS, sizeof(ClusterMemory<ClusterTile, DgradPass>), stream,
                          DgradPass::map_a(args.dy, size), DgradPass::map_b(args.w, size),
                          ClusterParameters<InputGradientOutput<bfloat16>>{size, grid, output});
  if (args.epilogue.db) bias_grad(pixels_of(problem), dx, args.epilogue.db, args.sums, stream);
}

template <GemmSize (*size_of)(const ConvProblem&)>
bool supports(const ConvProblem& problem) {
  const int splits = split_count(size_of(problem));
  return problem.precision == Precision::bf16 && problem.k % 8 == 0 && problem.c % 8 == 0 && splits > 1 &&
         splits <= kMostSplits && has_warp_groups();
}

// That of the tile without the launch that adds up splits, whose copies stay in shared memory.
template <GemmSize (*size_of)(const ConvProblem&)>
int64_t cycles(const ConvProblem& problem) {
  constexpr cost::TileCost tile = cost::tile_cost<ClusterTile>();
  const GemmSize size = size_of(problem);
  const int64_t splits = split_count(size), length = cost::split_length(size, splits);
  return cost::blocks_cycles(tile, cost::tiles(tile, size) * splits, cost::ceil_div(length, tile.block_k),
                             2 * tile.block_m * tile.block_n * int64_t{sizeof(float)});
}

}  // namespace

std::vector<FpropTable::Row> fc_cluster_fprop_rows() {
  return {{"fc_fprop_wgmma_cluster_" + ClusterTile::name(), true, supports<fprop_size>, always, no_workspace,
           launch_fprop, cycles<fprop_size>, true}};
}

std::vector<DgradTable::Row> fc_cluster_dgrad_rows() {
  return {{"fc_dgrad_wgmma_cluster_" + ClusterTile::name(), true, supports<dgrad_size>, always, no_workspace,
           launch_dgrad, cycles<dgrad_size>, true}};
}

}  // namespace cconvnet
