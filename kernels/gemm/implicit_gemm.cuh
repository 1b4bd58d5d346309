// Everything that the passes of a convolution share when each is computed as one matrix product per channel
// group, whose operands are read in place ("implicit GEMM"): the product's sizes, its split along k, its grid
// of blocks and the selection tables, which the FC layers use too.
//
//         m              n               k                  the sums run in the order
// fprop   N*P*Q          K/groups        R*S*C/groups       r, s, c
// dgrad   N*H*W          C/groups        R*S*K/groups       r, s, k (per residue class, see conv_dgrad.cu)
// wgrad   K/groups       R*S*C/groups    N*P*Q              n, p, q
//
// A few large tiles may leave most of a GPU idle, above all in wgrad. Then k is divided into splits. Blocks
// of its own compute each split into its own copy of the output in the workspace, and split_reduce adds the
// copies in order. The number of splits depends on the problem alone, not on the GPU and not on the tile. So
// all rows of a table that multiply with the same arithmetic add the same numbers in the same order, and
// their results are bit-identical.
#pragma once

#include "gemm/cost.h"
#include "gemm/epilogue.cuh"
#include "gemm/gemm_tile.cuh"
#include "core/passes.h"
#include "gemm/tensor_tile.cuh"

namespace cconvnet {

inline GemmSize fprop_size(const ConvProblem& problem) {
  return {problem.n * problem.p * problem.q, problem.k_per_group(),
          problem.r * problem.s * problem.c_per_group(), problem.groups, problem.precision};
}

inline GemmSize wgrad_size(const ConvProblem& problem) {
  return {problem.k_per_group(), problem.r * problem.s * problem.c_per_group(),
          problem.n * problem.p * problem.q, problem.groups, problem.precision};
}

// `count` is the number of elements of the output.
inline size_t split_workspace(const GemmSize& size, int count) {
  const size_t splits = split_count(size);
  return splits == 1 ? 0 : splits * count * sizeof(float);
}

// Passes to the output, for each of its `count` elements i, the sum over the splits, in order, of
// partials[split][i]. Its channel is i % channels. Rows of `channels` elements are `pitch` elements apart in
// the output.
template <class Output>
void split_reduce(int count, int splits, const float* partials, int channels, int pitch, const Output& output,
                  Stream stream);

// ---- the grid -------------------------------------------------------------------------------------------

// One-dimensional, since y and z may have only 65535 blocks. Neighbouring blocks share rows of A.
struct GemmGrid {
  uint32_t tiles_m, tiles_n, splits, batches;

  template <class Tile>
  static GemmGrid make(const GemmSize& size) {
    return {static_cast<uint32_t>(ceil_div(size.m, Tile::BLOCK_M)),
            static_cast<uint32_t>(ceil_div(size.n, Tile::BLOCK_N)), static_cast<uint32_t>(split_count(size)),
            static_cast<uint32_t>(size.batches)};
  }

  CCONVNET_HOST_DEVICE int64_t count() const { return int64_t{tiles_m} * tiles_n * splits * batches; }

  dim3 blocks() const {
    detail::require(count() <= INT32_MAX, "the problem has too many tiles for one launch");
    return dim3(static_cast<unsigned>(count()));
  }
};

// This block's part of the work. It is the same for all threads and seldom needed, so it is kept in shared
// memory: in registers it would displace the sums.
struct GemmBlock {
  uint32_t m, n;  // where its tile begins
  uint32_t split, batch;

  // Sets up the block's one GemmBlock.
  template <class Tile>
  static __device__ __forceinline__ const GemmBlock& shared(const GemmGrid& grid) {
    auto& block = shared_memory<GemmBlock>();
    if (threadIdx.x == 0) block = make<Tile>(grid, blockIdx.x);
    __syncthreads();
    return block;
  }

  template <class Tile>
  static __device__ __forceinline__ GemmBlock make(const GemmGrid& grid, uint32_t number) {
    GemmBlock block;
    uint32_t rest = number;
    block.n = rest % grid.tiles_n * Tile::BLOCK_N;
    rest /= grid.tiles_n;
    block.m = rest % grid.tiles_m * Tile::BLOCK_M;
    rest /= grid.tiles_m;
    block.split = rest % grid.splits;
    block.batch = rest / grid.splits;
    return block;
  }

  // Its steps along k. The last splits may have none; they write zeros.
  template <class Tile>
  __device__ __forceinline__ Steps steps(int gemm_k, uint32_t splits) const {
    static_assert(kSplitUnit % Tile::BLOCK_K == 0, "a split must be a whole number of steps");
    const uint32_t end = gemm_k;
    const uint32_t units = (end + splits * kSplitUnit - 1) / (splits * kSplitUnit);
    const uint32_t length = units * kSplitUnit;
    const uint32_t first = min(split * length, end);
    const uint32_t share = min(length, end - first);
    return {first, first + share, static_cast<int>((share + Tile::BLOCK_K - 1) / Tile::BLOCK_K)};
  }
};

// The block's tile of the product of one batch.
template <class Tile, class A, class B>
__device__ __forceinline__ auto multiply(const A& a, const B& b, const GemmBlock& block, int gemm_k,
                                         const GemmGrid& grid) {
  const Steps steps = block.steps<Tile>(gemm_k, grid.splits);
  if constexpr (Tile::TENSOR) {
    return multiply_tensor_tile<Tile>(a, b, block.m, block.n, steps);
  } else {
    return multiply_tile<Tile>(a, b, block.m, block.n, steps);
  }
}

// The k between the successive depths of a thread that copies an operand. Tiles without tensor cores divide.
template <class Tile, int ROWS, class Operand, bool TENSOR = Tile::TENSOR>
constexpr int kDepthStep = Tile::BLOCK_K;
template <class Tile, int ROWS, class Operand>
constexpr int kDepthStep<Tile, ROWS, Operand, true> = TensorLoader<Tile, ROWS, Operand>::DEPTH_STEP;

// ---- the output -----------------------------------------------------------------------------------------

// The destination of a product: the output or, with splits, a copy for each split's sums, from which reduce()
// makes the output. `count` is the number of elements of the output.
template <class Output>
struct Destination {
  Output output;
  int count;
  float* partials;  // null without splits

  Destination(const Output& output, int count, const GemmGrid& grid, void* workspace)
      : output(output), count(count), partials(grid.splits > 1 ? static_cast<float*>(workspace) : nullptr) {}

  // `copies` is the layout of a split's copy, where it differs from the output's.
  template <class Product, class Layout>
  __device__ __forceinline__ void store(const Product& product, const GemmBlock& block, const Layout& layout,
                                        const Layout& copies, uint32_t first_channel, int gemm_m,
                                        int gemm_n) const {
    const PlainOutput<float> copy = {partials + static_cast<size_t>(block.split) * count, output.vectors};
    // One piece of code for both takes fewer registers.
    if constexpr (std::is_same_v<Output, PlainOutput<float>>) {
      const Output target = {partials ? copy.y : output.y, output.vectors};
      store_tile(product, target, layout, block.m, block.n, first_channel, gemm_m, gemm_n);
    } else if constexpr (std::is_same_v<Output, InputGradientOutput<float>>) {
      const Output target = partials ? output.plain(copy.y) : output;
      store_tile(product, target, layout, block.m, block.n, first_channel, gemm_m, gemm_n);
    } else if (partials) {
      store_tile(product, copy, copies, block.m, block.n, first_channel, gemm_m, gemm_n);
    } else {
      store_tile(product, output, layout, block.m, block.n, first_channel, gemm_m, gemm_n);
    }
  }

  template <class Product, class Layout>
  __device__ __forceinline__ void store(const Product& product, const GemmBlock& block, const Layout& layout,
                                        uint32_t first_channel, int gemm_m, int gemm_n) const {
    store(product, block, layout, layout, first_channel, gemm_m, gemm_n);
  }

  // To be called after the launch. The output's channels repeat, in rows that are `pitch` elements apart.
  void reduce(const GemmGrid& grid, int channels, int pitch, Stream stream) const {
    if (partials) {
      split_reduce(count, static_cast<int>(grid.splits), partials, channels, pitch, output, stream);
    }
  }
  void reduce(const GemmGrid& grid, int channels, Stream stream) const {
    reduce(grid, channels, channels, stream);
  }
};

// The layout of an output whose rows are `pitch` elements apart, as those of a matrix or the pixels of an array.
struct OutputRows {
  int pitch;
  uint32_t first;  // the beginning of row 0
  __device__ __forceinline__ uint32_t row(uint32_t m) const { return m * pitch + first; }
};

// Returns whether the outputs of a tile may be written in groups. Rows of `gemm_n` columns must contain whole
// groups, and each of the pointers, which may be null, must be on a boundary.
template <class... Pointers>
bool whole_groups(int gemm_n, Pointers... pointers) {
  return gemm_n % kGroup == 0 && aligned(pointers...);
}

// ---- selection ------------------------------------------------------------------------------------------

const FpropTable& conv_fprop_table();
const DgradTable& conv_dgrad_table();
const WgradTable& conv_wgrad_table();
const FpropTable& fc_fprop_table();
const DgradTable& fc_dgrad_table();
const WgradTable& fc_wgrad_table();

// What is written to y, after the epilogue.
template <class T>
EpilogueOutput<T> fprop_output(const ConvProblem& problem, const FpropArguments& args) {
  T* const y = static_cast<T*>(args.y) + problem.y_first;
  const bool groups =
      whole_groups(problem.k_per_group(), y, args.workspace) && problem.pixel_pitch() % kGroup == 0;
  return EpilogueOutput<T>(args.epilogue, y, groups);
}

// The rows that read patches of images, in conv_few_channels.cu.
std::vector<FpropTable::Row> few_channels_fprop_rows();
std::vector<WgradTable::Row> few_channels_wgrad_rows();

// The rows of products of warp groups, in conv_wgmma.cu.
std::vector<FpropTable::Row> wgmma_fprop_rows();
std::vector<DgradTable::Row> wgmma_dgrad_rows();
std::vector<WgradTable::Row> wgmma_wgrad_rows();

// The rows of FC layers whose splits are the blocks of a cluster, in fc_cluster.cu.
std::vector<FpropTable::Row> fc_cluster_fprop_rows();
std::vector<DgradTable::Row> fc_cluster_dgrad_rows();

// The rows of products of warp groups whose taps share pixels, in conv_halo.cu.
std::vector<FpropTable::Row> halo_fprop_rows();
std::vector<DgradTable::Row> halo_dgrad_rows();
std::vector<WgradTable::Row> halo_wgrad_rows();

// The rows of FC layers that stream the weights which they update, in fc_update.cu.
std::vector<WgradTable::Row> fc_update_rows();

// The rows of convolutions whose channels have one filter each, in conv_depthwise.cu.
std::vector<FpropTable::Row> depthwise_fprop_rows();
std::vector<DgradTable::Row> depthwise_dgrad_rows();
std::vector<WgradTable::Row> depthwise_wgrad_rows();

}  // namespace cconvnet
