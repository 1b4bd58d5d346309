// The gradient of a convolution by its filters, as an implicit GEMM. Row m of A is output channel k of dy,
// row n of B the pixels of x that tap (r, s) of input channel c reads, and the sum runs over all output
// pixels (n, p, q). Both operands are contiguous across k, along their channels. One block computes a tile of
// output channels times filter weights of one group; gemm_tile.cuh describes how its threads share it.
// Filters are few and pixels many, so most problems are split along k.
#include "gemm/implicit_gemm.cuh"

namespace cconvnet {
namespace {

template <class T>
struct WgradParameters {
  ConvProblem problem;
  int c_per_group, k_per_group;
  GemmSize size;
  GemmGrid grid;
  Divider by_q, by_p, by_c, by_s;
  DigitStep step;  // of B, along k
  const T *x, *dy;
  Destination<GradientOutput> destination;
};

// ---- operands -------------------------------------------------------------------------------------------

// A: dy, a plain matrix, transposed.
template <class T>
struct Gradients {
  static constexpr bool ALONG_K = false;
  using RowPart = uint32_t;
  using DepthPart = uint32_t;
  struct Place {
    uint32_t k;
  };

  const WgradParameters<T>& args;
  const T* data;
  uint32_t first_channel;

  __device__ __forceinline__ RowPart row(uint32_t m) const {
    return m < static_cast<uint32_t>(args.size.m) ? first_channel + m : kOutside;
  }
  __device__ __forceinline__ Place place(uint32_t k) const { return {k}; }
  __device__ __forceinline__ void advance(Place& place, uint32_t more) const { place.k += more; }

  __device__ __forceinline__ DepthPart depth(const Place& place) const { return place.k * args.problem.k; }
  __device__ __forceinline__ DepthPart depth(uint32_t k) const {
    return k < static_cast<uint32_t>(args.size.k) ? depth(place(k)) : kOutside;
  }

  __device__ __forceinline__ Location locate(RowPart row, DepthPart depth) const {
    const bool inside = (row != kOutside) & (depth != kOutside);
    return {row + depth, inside};
  }
};

// B: x at the pixel that tap (r, s) of window (n, p, q) reads.
template <class T>
struct Windows {
  static constexpr bool ALONG_K = false;
  struct RowPart {
    uint32_t h, w;  // how many pixels down and right of the window's first
    uint32_t offset;
  };
  struct DepthPart {
    uint32_t h, w;  // the window's first pixel
    uint32_t offset;
  };
  using Place = Digits;

  const WgradParameters<T>& args;
  const T* data;
  uint32_t first_channel;

  __device__ __forceinline__ RowPart row(uint32_t n) const {
    // A row beyond the last has no pixel inside the image: the sum of both h stays far above any height.
    if (n >= static_cast<uint32_t>(args.size.n)) return {1u << 31, 0, 0};
    int c, s;
    const uint32_t r = args.by_s.divide(args.by_c.divide(n, c), s);
    const uint32_t h = r * args.problem.dilation_h, w = s * args.problem.dilation_w;
    return {h, w, (h * args.problem.w + w) * args.problem.c + c + first_channel};
  }

  // The output pixel.
  __device__ __forceinline__ Place place(uint32_t k) const {
    int p, q;
    const uint32_t n = args.by_p.divide(args.by_q.divide(k, q), p);
    return {static_cast<uint32_t>(q), static_cast<uint32_t>(p), n};
  }
  __device__ __forceinline__ void advance(Place& place, uint32_t) const { args.step.advance(place); }

  __device__ __forceinline__ DepthPart depth(const Place& place) const {
    const ConvProblem& problem = args.problem;
    const uint32_t h = place.middle * problem.stride_h - problem.pad_h;
    const uint32_t w = place.inner * problem.stride_w - problem.pad_w;
    return {h, w, ((place.outer * problem.h + h) * problem.w + w) * problem.c};
  }
  __device__ __forceinline__ DepthPart depth(uint32_t k) const {
    DepthPart part = depth(place(k));
    // Likewise beyond the last k: the sum of both w stays above any width.
    if (k >= static_cast<uint32_t>(args.size.k)) part.w = 1u << 31;
    return part;
  }

  __device__ __forceinline__ Location locate(const RowPart& row, const DepthPart& depth) const {
    const bool inside = (row.h + depth.h < static_cast<uint32_t>(args.problem.h)) &
                        (row.w + depth.w < static_cast<uint32_t>(args.problem.w));
    return {row.offset + depth.offset, inside};
  }
};

// ---- kernel and launcher --------------------------------------------------------------------------------

template <class Tile, class T = typename Tile::Element>
__global__ void __launch_bounds__(Tile::THREADS, Tile::MIN_BLOCKS)
    conv_wgrad_implicit_gemm(WgradParameters<T> args) {
  const GemmBlock& block = GemmBlock::shared<Tile>(args.grid);
  const uint32_t first_filter = block.batch * args.k_per_group;
  const auto product =
      multiply<Tile>(Gradients<T>{args, args.dy, first_filter},
                     Windows<T>{args, args.x, block.batch * args.c_per_group}, block, args.size.k, args.grid);
  args.destination.store(product, block, OutputRows{args.size.n, first_filter * args.size.n}, 0, args.size.m,
                         args.size.n);
}

template <class Tile>
void launch(const ConvProblem& problem, const WgradArguments& args, Stream stream) {
  using T = typename Tile::Element;
  const GemmSize size = wgrad_size(problem);
  const GemmGrid grid = GemmGrid::make<Tile>(size);
  const GradientOutput output(args.update, args.dw, whole_groups(size.n, args.dw, args.workspace));
  const WgradParameters<T> parameters = {
      problem,
      problem.c_per_group(),
      problem.k_per_group(),
      size,
      grid,
      Divider(problem.q),
      Divider(problem.p),
      Divider(problem.c_per_group()),
      Divider(problem.s),
      DigitStep::make(kDepthStep<Tile, Tile::BLOCK_N, Windows<T>>, problem.q, problem.p),
      static_cast<const T*>(args.x),
      static_cast<const T*>(args.dy),
      {output, problem.w_count(), grid, args.workspace}};
  CCONVNET_LAUNCH_SHARED((conv_wgrad_implicit_gemm<Tile>), grid.blocks(), Tile::THREADS, Tile::LAUNCH_BYTES,
                         stream, parameters);
  parameters.destination.reduce(grid, problem.w_count(), stream);
}

// ---- selection ------------------------------------------------------------------------------------------

size_t workspace(const ConvProblem& problem) {
  return split_workspace(wgrad_size(problem), problem.w_count());
}

template <class Tile>
WgradTable::Row row() {
  return {"conv_wgrad_implicit_gemm_" + Tile::name(), Tile::WHOLE > 1,
          // Neighbouring m must be channels of one group, neighbouring n channels of one tap.
          [](const ConvProblem& problem) {
            return Tile::multiplies(problem.precision) && problem.k_per_group() % Tile::WHOLE == 0 &&
                   problem.c_per_group() % Tile::WHOLE == 0;
          },
          always, workspace, launch<Tile>,
          [](const ConvProblem& problem) { return predicted_cycles<Tile>(wgrad_size(problem)); }};
}

template <class T, int... SIZES>
WgradTable::Row tensor_row() {
  return row<TensorTile<T, SIZES...>>();
}
template <int... SIZES>
WgradTable::Row fp32x3_row() {
  return row<SplitTensorTile<SIZES...>>();
}
template <int... SIZES>
WgradTable::Row fp32_row() {
  return row<Tile<float, SIZES...>>();
}
template <int... SIZES>
WgradTable::Row bf16_row() {
  return row<Tile<bfloat16, SIZES...>>();
}

}  // namespace

const WgradTable& conv_wgrad_table() {
  static const WgradTable table(
      "conv_wgrad",
      {// A side of 96 is for AlexNet's first and fourth layers. Three columns of 64 x 192 are the 9 taps of 64
       // channels.
       tensor_row<bfloat16, 128, 128, 64, 64, 64, 3>(), tensor_row<bfloat16, 96, 128, 64, 48, 64, 3>(),
       tensor_row<bfloat16, 192, 96, 64, 96, 48, 2>(), tensor_row<bfloat16, 64, 192, 64, 64, 48, 3>(),
       tensor_row<bfloat16, 64, 128, 64, 32, 64, 3>(), tensor_row<bfloat16, 64, 64, 64, 32, 32, 3>(),
       tensor_row<float, 128, 128, 32, 64, 64, 3>(), tensor_row<float, 96, 128, 32, 48, 64, 3>(),
       tensor_row<float, 64, 192, 32, 64, 48, 3>(), tensor_row<float, 64, 128, 32, 32, 64, 3>(),
       tensor_row<float, 64, 64, 32, 32, 32, 3>(), fp32x3_row<64, 64, 16, 32, 32, 4>(),
       fp32_row<128, 128, 16, 8, 8, 4>(), fp32_row<96, 128, 16, 8, 8, 4>(), fp32_row<64, 128, 16, 8, 8, 4>(),
       fp32_row<64, 64, 16, 8, 4, 4>(), fp32_row<32, 128, 16, 4, 8, 4>(), fp32_row<32, 32, 16, 4, 4, 4>(),
       fp32_row<96, 128, 8, 8, 8, 1>(), fp32_row<64, 128, 8, 8, 8, 1>(), fp32_row<64, 64, 8, 8, 4, 1>(),
       fp32_row<32, 128, 8, 4, 8, 1>(), fp32_row<32, 32, 8, 4, 4, 1>(),
       // Problems that tensor cores do not support.
       bf16_row<64, 128, 8, 8, 8, 1>(), bf16_row<32, 32, 8, 4, 4, 1>()},
      joined(joined(joined(depthwise_wgrad_rows(), few_channels_wgrad_rows()), wgmma_wgrad_rows()),
             halo_wgrad_rows()));
  return table;
}

CCONVNET_WGRAD(conv, ConvProblem, conv_wgrad_table(), problem)

}  // namespace cconvnet
