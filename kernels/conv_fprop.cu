// Forward convolution, y = x * w + bias, as an implicit GEMM. Row m of A is the window of output pixel (n, p,
// q), read from x in place; row n of B is the filter of output channel n of the group. Both are contiguous
// along k, whose innermost part is the input channel. One block computes a tile of output pixels times output
// channels of one group; gemm_tile.cuh describes how its threads share it.
#include "gemm/implicit_gemm.cuh"

namespace cconvnet {
namespace {

template <class T>
struct FpropParameters {
  ConvProblem problem;
  int c_per_group, k_per_group;
  int pitch;  // of y's pixels
  GemmSize size;
  GemmGrid grid;
  Divider by_q, by_p, by_c, by_s;
  DigitStep step;  // of A, along k
  const T *x, *w;
  Destination<EpilogueOutput<T>> destination;
};

// ---- operands -------------------------------------------------------------------------------------------

// A: x at the pixel that tap (r, s) of window (n, p, q) reads.
template <class T>
struct Windows {
  static constexpr bool ALONG_K = true;
  struct RowPart {
    uint32_t h, w;  // the window's first pixel
    uint32_t offset;
  };
  struct DepthPart {
    uint32_t h, w;  // how many pixels down and right of that
    uint32_t offset;
  };
  using Place = Digits;

  const FpropParameters<T>& args;
  const T* data;
  uint32_t first_channel;

  __device__ __forceinline__ RowPart row(uint32_t m) const {
    const ConvProblem& problem = args.problem;
    // A row beyond the last has no pixel inside the image: the sum of both h stays far above any height.
    if (m >= static_cast<uint32_t>(args.size.m)) return {1u << 31, 0, 0};
    int p, q;
    const uint32_t n = args.by_p.divide(args.by_q.divide(m, q), p);
    const uint32_t h = p * problem.stride_h - problem.pad_h;
    const uint32_t w = q * problem.stride_w - problem.pad_w;
    return {h, w, ((n * problem.h + h) * problem.w + w) * problem.c + first_channel};
  }

  // The input channel and the tap.
  __device__ __forceinline__ Place place(uint32_t k) const {
    int c, s;
    const uint32_t r = args.by_s.divide(args.by_c.divide(k, c), s);
    return {static_cast<uint32_t>(c), static_cast<uint32_t>(s), r};
  }
  __device__ __forceinline__ void advance(Place& place, uint32_t) const { args.step.advance(place); }

  __device__ __forceinline__ DepthPart depth(const Place& place) const {
    const uint32_t h = place.outer * args.problem.dilation_h, w = place.middle * args.problem.dilation_w;
    return {h, w, (h * args.problem.w + w) * args.problem.c + place.inner};
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

// B: the filters, a plain matrix.
template <class T>
struct Filters {
  static constexpr bool ALONG_K = true;
  using RowPart = uint32_t;
  using DepthPart = uint32_t;
  struct Place {
    uint32_t k;
  };

  const FpropParameters<T>& args;
  const T* data;
  uint32_t first_channel;

  __device__ __forceinline__ RowPart row(uint32_t n) const {
    return n < static_cast<uint32_t>(args.size.n) ? (first_channel + n) * args.size.k : kOutside;
  }
  __device__ __forceinline__ Place place(uint32_t k) const { return {k}; }
  __device__ __forceinline__ void advance(Place& place, uint32_t more) const { place.k += more; }

  __device__ __forceinline__ DepthPart depth(const Place& place) const { return place.k; }
  __device__ __forceinline__ DepthPart depth(uint32_t k) const {
    return k < static_cast<uint32_t>(args.size.k) ? depth(place(k)) : kOutside;
  }
  __device__ __forceinline__ Location locate(RowPart row, DepthPart depth) const {
    const bool inside = (row != kOutside) & (depth != kOutside);
    return {row + depth, inside};
  }
};

struct MeasuredFpropOutput : OutputRows {
  uint32_t rows;
  __device__ __forceinline__ uint32_t sums(uint32_t m, uint32_t channel) const {
    return m < rows ? m / kSumRows * pitch + channel : kOutside;
  }
};

// ---- kernel and launcher --------------------------------------------------------------------------------

template <class Tile, class T>
__device__ __forceinline__ auto product_of(const FpropParameters<T>& args, const GemmBlock& block,
                                           uint32_t first_channel) {
  return multiply<Tile>(Windows<T>{args, args.x, block.batch * args.c_per_group},
                        Filters<T>{args, args.w, first_channel}, block, args.size.k, args.grid);
}

template <class Tile, class T = typename Tile::Element>
__global__ void __launch_bounds__(Tile::THREADS, Tile::MIN_BLOCKS)
    conv_fprop_implicit_gemm(FpropParameters<T> args) {
  const GemmBlock& block = GemmBlock::shared<Tile>(args.grid);
  const uint32_t first_channel = block.batch * args.k_per_group;
  const auto product = product_of<Tile>(args, block, first_channel);
  args.destination.store(product, block, OutputRows{args.pitch, first_channel},
                         OutputRows{args.problem.k, first_channel}, first_channel, args.size.m, args.size.n);
}

// The same with the moments of the output. In one kernel with the other they would cost it registers.
template <class Tile, class T = typename Tile::Element>
__global__ void __launch_bounds__(Tile::THREADS, Tile::MIN_BLOCKS)
    conv_fprop_measured(FpropParameters<T> args, MeasuredOutput<T> output) {
  const GemmBlock& block = GemmBlock::shared<Tile>(args.grid);
  const uint32_t first_channel = block.batch * args.k_per_group;
  const auto product = product_of<Tile>(args, block, first_channel);
  const MeasuredFpropOutput layout = {{args.pitch, first_channel}, static_cast<uint32_t>(args.size.m)};
  store_tile(product, output, layout, block.m, block.n, first_channel, args.size.m, args.size.n);
}

template <class Tile>
void launch(const ConvProblem& problem, const FpropArguments& args, Stream stream) {
  using T = typename Tile::Element;
  const GemmSize size = fprop_size(problem);
  const GemmGrid grid = GemmGrid::make<Tile>(size);
  const EpilogueOutput<T> output = fprop_output<T>(problem, args);
  const FpropParameters<T> parameters = {
      problem,
      problem.c_per_group(),
      problem.k_per_group(),
      problem.pixel_pitch(),
      size,
      grid,
      Divider(problem.q),
      Divider(problem.p),
      Divider(problem.c_per_group()),
      Divider(problem.s),
      DigitStep::make(kDepthStep<Tile, Tile::BLOCK_M, Windows<T>>, problem.c_per_group(), problem.s),
      static_cast<const T*>(args.x),
      static_cast<const T*>(args.w),
      {output, problem.outputs(), grid, args.workspace}};
  if constexpr (Tile::TENSOR) {
    if (args.statistics.mean && grid.splits == 1 && !args.epilogue.dropout) {
      const BatchNormProblem rows = rows_of(problem, args.statistics.counted);
      const auto [mean, variance, unbiased, counted] = args.statistics;
      float* const moments = static_cast<float*>(args.sums);
      const MeasuredOutput<T> measured(output, moments, groups_of_rows({rows.rows, rows.k}).count(),
                                       rows.counted);
      CCONVNET_LAUNCH_SHARED((conv_fprop_measured<Tile>), grid.blocks(), Tile::THREADS, Tile::LAUNCH_BYTES,
                             stream, parameters, measured);
      reduce_groups(rows, {mean, variance, unbiased, rows.counted}, moments, stream);
      return;
    }
  }
  CCONVNET_LAUNCH_SHARED((conv_fprop_implicit_gemm<Tile>), grid.blocks(), Tile::THREADS, Tile::LAUNCH_BYTES,
                         stream, parameters);
  parameters.destination.reduce(grid, problem.k, problem.pixel_pitch(), stream);
  output.after(args.epilogue, stream);
  apply(args.statistics, problem, args.y, args.sums, stream);
}

// ---- selection ------------------------------------------------------------------------------------------

size_t workspace(const ConvProblem& problem) {
  return split_workspace(fprop_size(problem), problem.outputs());
}

template <class Tile>
FpropTable::Row row() {
  return {"conv_fprop_implicit_gemm_" + Tile::name(), Tile::WHOLE > 1,
          // Neighbouring k must be channels of one tap.
          [](const ConvProblem& problem) {
            return Tile::multiplies(problem.precision) && problem.c_per_group() % Tile::WHOLE == 0;
          },
          always, workspace, launch<Tile>,
          [](const ConvProblem& problem) { return predicted_cycles<Tile>(fprop_size(problem)); }};
}

template <class T, int... SIZES>
FpropTable::Row tensor_row() {
  return row<TensorTile<T, SIZES...>>();
}
template <int... SIZES>
FpropTable::Row fp32x3_row() {
  return row<SplitTensorTile<SIZES...>>();
}
template <int... SIZES>
FpropTable::Row fp32_row() {
  return row<Tile<float, SIZES...>>();
}
template <int... SIZES>
FpropTable::Row bf16_row() {
  return row<Tile<bfloat16, SIZES...>>();
}

}  // namespace

const FpropTable& conv_fprop_table() {
  static const FpropTable table(
      "conv_fprop",
      {// A side of 96 is for AlexNet's first and fourth layers. Warps of 96 rows read B less often. For 64 filters
       // 256 x 64 has warps of 64 x 64, which read a third less from shared memory than those of 128 x 64.
       tensor_row<bfloat16, 128, 128, 64, 64, 64, 3>(), tensor_row<bfloat16, 192, 96, 64, 96, 48, 2>(),
       tensor_row<bfloat16, 128, 96, 64, 64, 48, 3>(), tensor_row<bfloat16, 256, 64, 64, 64, 64, 2>(),
       tensor_row<bfloat16, 128, 64, 64, 64, 32, 3>(), tensor_row<bfloat16, 64, 64, 64, 32, 32, 3>(),
       tensor_row<float, 128, 128, 32, 64, 64, 3>(), tensor_row<float, 128, 96, 32, 64, 48, 3>(),
       tensor_row<float, 256, 64, 32, 64, 64, 2>(), tensor_row<float, 128, 64, 32, 64, 32, 3>(),
       tensor_row<float, 64, 64, 32, 32, 32, 3>(), fp32x3_row<64, 64, 16, 32, 32, 4>(),
       fp32_row<128, 128, 16, 8, 8, 4>(), fp32_row<128, 96, 16, 8, 8, 4>(), fp32_row<128, 64, 16, 8, 8, 4>(),
       fp32_row<64, 64, 16, 8, 4, 4>(), fp32_row<128, 32, 16, 8, 4, 4>(), fp32_row<32, 32, 16, 4, 4, 4>(),
       fp32_row<128, 96, 8, 8, 8, 1>(), fp32_row<128, 64, 8, 8, 8, 1>(), fp32_row<128, 32, 8, 8, 4, 1>(),
       fp32_row<32, 32, 8, 4, 4, 1>(),
       // Problems that tensor cores do not support.
       bf16_row<128, 64, 8, 8, 8, 1>(), bf16_row<32, 32, 8, 4, 4, 1>()},
      joined(joined(joined(depthwise_fprop_rows(), few_channels_fprop_rows()), wgmma_fprop_rows()),
             halo_fprop_rows()));
  return table;
}

size_t fprop_sums_workspace(const ConvProblem& problem) {
  const BatchNormProblem rows = rows_of(problem, 0);
  const BiasProblem groups = groups_of_rows({rows.rows, rows.k});
  const size_t bytes = std::max(batch_norm_statistics_workspace(rows),
                                sizeof(float) * (2 * int64_t{groups.count()} + floats_between_pairs(groups)));
  return ceil_div(bytes, kVectorBytes) * kVectorBytes;
}

CCONVNET_MEASURED_FPROP(conv, ConvProblem, conv_fprop_table(), problem)

}  // namespace cconvnet
