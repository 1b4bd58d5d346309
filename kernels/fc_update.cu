// The gradient of an FC layer by its weights with their update, for compute capability 9.0: the weights' state is
// streamed by the copy engine (gemm/update_tile.cuh). A batch has few rows, so the sums over it are short, and nearly
// all that moves are weights. The arithmetic, and its order, is that of the other rows of the table.
#include "gemm/matrix_pass.cuh"
#include "gemm/update_tile.cuh"

namespace cconvnet {
namespace {

struct UpdateParameters {
  GemmSize size;
  GemmGrid grid;
  SgdStep step;
  bool rounds;
};

// All of a multiprocessor's shared memory: two stages of factors, a batch of 128, and four of weights for each group.
using UpdateTile = WgmmaTile<bfloat16, 128, 128, 64, 2>;
// A is dy and B is x, whose lines are rows of the batch.
using Pass = MatrixPass<UpdateTile, false, false>;
using Memory = UpdateMemory<UpdateTile, Pass, 4>;

template <class Tile, bool UPDATES>
__global__ void __launch_bounds__(Tile::THREADS, 1)
    fc_wgrad_wgmma_streamed(CCONVNET_MAP gradients, CCONVNET_MAP inputs, CCONVNET_MAP w, CCONVNET_MAP v,
                            CCONVNET_MAP rounded, const UpdateParameters args) {
  update_wgmma_tiles<Tile, Memory, UPDATES>(Pass{gradients, inputs}, WeightMaps{w, v, rounded}, args.grid,
                                            args.size.k, args.step, args.rounds);
}

template <bool UPDATES>
void launch_streamed(const ConvProblem& problem, const WgradArguments& args, Stream stream) {
  using Tile = UpdateTile;
  const GemmSize size = wgrad_size(problem);
  const GemmGrid grid = GemmGrid::make<Tile>(size);
  const Update update = UPDATES ? *args.update : Update{};
  const auto weights = [&](const void* data, int bytes, Swizzle swizzle) {
    return tiled_map(matrix(data, bytes, size.m, size.n), {StreamedWeights::COLUMNS, StreamedWeights::ROWS},
                     swizzle);
  };
  const TensorMap w = weights(UPDATES ? update.w : args.dw, sizeof(float), StreamedWeights::SWIZZLE);
  const TensorMap v = UPDATES ? weights(update.v, sizeof(float), StreamedWeights::SWIZZLE) : w;
  const TensorMap rounded =
      update.w_bf16 ? weights(update.w_bf16, sizeof(bfloat16), StreamedWeights::ROUNDED_SWIZZLE) : w;
  // Two thirds of the multiprocessors keep memory busy: each moves 22 bytes for a weight, 18 of them from and to memory.
  // The others are left to kernels of another stream.
  CCONVNET_LAUNCH_90((fc_wgrad_wgmma_streamed<Tile, UPDATES>), persistent_blocks(grid, 2), Tile::THREADS,
                     sizeof(Memory), stream, Pass::map_a(args.dy, size), Pass::map_b(args.x, size), w, v,
                     rounded, UpdateParameters{size, grid, SgdStep(update), update.w_bf16 != nullptr});
}

void launch(const ConvProblem& problem, const WgradArguments& args, Stream stream) {
  if (args.update ? !SgdStep(*args.update).aligned() : !aligned(args.dw)) {
    // No tensor map describes such weights; this row stores single ones.
    fc_wgrad_table().run(problem, args, stream, "fc_wgrad_gemm_bf16_128x128x64");
  } else if (args.update) {
    launch_streamed<true>(problem, args, stream);
  } else {
    launch_streamed<false>(problem, args, stream);
  }
}

// Sums that are split are added in another launch, and only then update.
bool supports(const ConvProblem& problem) {
  return problem.precision == Precision::bf16 && problem.k % 8 == 0 && problem.c % 8 == 0 &&
         split_count(wgrad_size(problem)) == 1 && has_warp_groups();
}

// That of its tile, but the weights are stored while the next are multiplied.
int64_t streamed_cycles(const ConvProblem& problem) {
  constexpr cost::TileCost tile = cost::tile_cost<UpdateTile>();
  const GemmSize size = wgrad_size(problem);
  return cost::blocks_cycles(tile, cost::tiles(tile, size), cost::ceil_div(size.k, tile.block_k), 0);
}

}  // namespace

std::vector<WgradTable::Row> fc_update_rows() {
  return {{"fc_wgrad_wgmma_streamed_" + UpdateTile::name(), true, supports, always, no_workspace, launch,
           streamed_cycles, true}};
}

}  // namespace cconvnet
