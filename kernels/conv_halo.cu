// Convolutions of stride 1 as products of warp groups whose taps share the pixels in shared memory, for compute
// capability 9.0 (gemm/halo_tile.cuh). The gradient by the input is a convolution of dy with the taps in reverse order.
//
//         pixels   windows   filters lie along
// fprop   x        y         k
// dgrad   dy       dx        input channels
#include "gemm/conv_arrays.h"
#include "gemm/halo_tile.cuh"
#include "gemm/halo_wgrad_tile.cuh"

namespace cconvnet {
namespace {

// ---- the stream -------------------------------------------------------------------------------------------

// The images that are read, and the windows in them.
struct HaloImages {
  int n, h, w, channels;  // channels and outputs of a group
  int pad_h, pad_w;
  int rows, columns, outputs;  // of windows
  int taps_w, taps;
  int dilation_h, dilation_w;
  int groups;
  int span_h, span_w;  // from the first tap to the last

  template <bool FORWARD>
  static HaloImages of(const ConvProblem& problem) {
    HaloImages of = {problem.n,
                     problem.h,
                     problem.w,
                     problem.c_per_group(),
                     problem.pad_h,
                     problem.pad_w,
                     problem.p,
                     problem.q,
                     problem.k_per_group(),
                     problem.s,
                     problem.r * problem.s,
                     problem.dilation_h,
                     problem.dilation_w,
                     problem.groups,
                     (problem.r - 1) * problem.dilation_h,
                     (problem.s - 1) * problem.dilation_w};
    if (!FORWARD) {
      std::swap(of.h, of.rows), std::swap(of.w, of.columns), std::swap(of.channels, of.outputs);
      of.pad_h = of.span_h - of.pad_h, of.pad_w = of.span_w - of.pad_w;
    }
    return of;
  }

  // Pixels of padding from a row to the next, and rows from an image to the next: enough for either side.
  int gap_w() const { return std::max(pad_w, columns + span_w - w - pad_w); }
  int gap_h() const { return std::max(pad_h, rows + span_h - h - pad_h); }
  int pitch() const { return w + gap_w(); }
  int64_t positions() const { return int64_t{n} * (h + gap_h()) * pitch(); }
  // Those that a tile reads, in whole pieces of 8.
  int pixels(int block_m) const {
    return static_cast<int>(ceil_div(block_m + span_h * pitch() + span_w, kPlane)) * kPlane;
  }

  // Whether the stream has all windows, and the copy engine the stream.
  bool is_stream() const {
    const auto fits = [](int size, int padding, int windows, int span, int gap) {
      return padding >= 0 && padding <= 127 && gap <= 127 && span <= size + gap && windows <= size + gap;
    };
    return fits(h, pad_h, rows, span_h, gap_h()) && fits(w, pad_w, columns, span_w, gap_w()) &&
           positions() <= INT32_MAX;
  }

  // Of tiles of slabs of so many channels that read so many pixels.
  HaloShape shape(int slab, int tile_pixels) const {
    return {pad_h,
            pad_w,
            channels,
            channels / slab,
            taps_w,
            taps,
            tile_pixels,
            dilation_w,
            dilation_h * pitch() - span_w,
            rows,
            columns,
            Divider(pitch()),
            Divider(h + gap_h()),
            {static_cast<int>(positions()), outputs, taps * channels, groups, Precision::bf16}};
  }
};

// A tile of a block alone, without a cluster.
constexpr cost::TileCost alone(cost::TileCost tile) {
  tile.cluster = 1;
  return tile;
}

template <class Tile>
GemmGrid grid_of(const GemmSize& size) {
  return {static_cast<uint32_t>(ceil_div(size.m, Tile::BLOCK_M)),
          static_cast<uint32_t>(ceil_div(size.n, Tile::BLOCK_N)), 1, static_cast<uint32_t>(size.batches)};
}

// ---- fprop and dgrad ---------------------------------------------------------------------------------------------

template <class Output>
struct HaloParameters {
  HaloShape shape;
  GemmGrid grid;
  int pitch;  // elements of the output from a window to the next
  Output output;
};

template <class Tile, bool FORWARD>
struct HaloPass {
  using T = typename Tile::Element;
  static constexpr bool B_ALONG_K = FORWARD;
  static constexpr int B_LINE = FORWARD ? Tile::LINE : Tile::BLOCK_N % 64 == 0 ? 64 : 16;
  struct Place {
    int n, h, w;  // the first pixel
    int group, column;
  };

  const TensorMap &planes, &filters;
  const HaloShape& shape;

  __device__ __forceinline__ Place place(const GemmBlock& block) const {
    int row, column;
    const int n = shape.by_rows.divide(shape.by_pitch.divide(static_cast<int>(block.m), column), row);
    return {n, row - shape.pad_h, column - shape.pad_w, static_cast<int>(block.batch),
            static_cast<int>(block.n)};
  }
  __device__ __forceinline__ void load_pixels(T* plane, ptx::Barrier& barrier, const Place& at,
                                              int channel) const {
    ptx::load_windows(plane, planes, barrier, at.group * shape.channels + channel, at.w, at.h, at.n, 0, 0);
  }
  __device__ __forceinline__ void load_filters(T* piece, ptx::Barrier& barrier, const Place& at, int channel,
                                               int tap) const {
    if constexpr (FORWARD) {
      ptx::load_box(piece, filters, barrier, tap * shape.channels + channel,
                    at.group * shape.size.n + at.column);
    } else {
#pragma unroll
      for (int i = 0; i < Tile::BLOCK_N; i += B_LINE) {
        ptx::load_box(piece + i * Tile::LINE, filters, barrier, at.column + i, shape.taps - 1 - tap,
                      at.group * shape.channels + channel);
      }
    }
  }
};

// STRAIGHT: of an output that is written in whole groups, without dropout.
template <class Tile, bool FORWARD, bool STRAIGHT, class Output>
__global__ void __launch_bounds__(Tile::THREADS, 1)
    conv_halo(CCONVNET_MAP planes, CCONVNET_MAP filters, const HaloParameters<Output> args) {
  const HaloShape& shape = args.shape;
  multiply_halo<Tile>(HaloPass<Tile, FORWARD>{planes, filters, shape}, shape, args.grid,
                      [&](const auto& product, const GemmBlock& block) {
                        const uint32_t first_channel = block.batch * shape.size.n;
                        const HaloRows layout = {shape, args.pitch, first_channel};
                        if constexpr (STRAIGHT) {
                          store_straight(product, args.output.straight(), layout, block.m, block.n,
                                         first_channel, shape.size.m, shape.size.n);
                        } else {
                          store_tile(product, args.output, layout, block.m, block.n, first_channel,
                                     shape.size.m, shape.size.n);
                        }
                      });
}

// `data` are the images that are read.
template <class Tile, bool FORWARD, class Output>
void launch(const ConvProblem& problem, const void* data, const void* w, int pitch, const Output& output,
            Stream stream) {
  using Memory = HaloMemory<Tile, HaloPass<Tile, FORWARD>>;
  constexpr Swizzle swizzle = Memory::Filters::SWIZZLE;
  constexpr int bytes = sizeof(typename Tile::Element);
  const HaloImages of = HaloImages::of<FORWARD>(problem);
  const HaloShape shape = of.shape(Tile::SLAB, of.pixels(Tile::BLOCK_M));
  const GemmGrid grid = grid_of<Tile>(shape.size);
  const TensorMap planes = window_map(
      images(data, bytes, of.n, of.h, of.w, of.channels * problem.groups),
      {-of.pad_w, -of.pad_h, of.gap_w() - of.pad_w, of.gap_h() - of.pad_h, 1, 1, kPlane, shape.pixels},
      Swizzle::none);
  const TensorMap filters =
      FORWARD ? tiled_map(matrix(w, bytes, problem.k, shape.size.k), {Tile::LINE, Tile::BLOCK_N}, swizzle)
              : tiled_map(taps_of_filters(problem, w, bytes),
                          {HaloPass<Tile, FORWARD>::B_LINE, 1, Tile::LINE}, swizzle);
  const HaloParameters<Output> parameters = {shape, grid, pitch, output};
  if (output.is_straight()) {
    CCONVNET_LAUNCH_90((conv_halo<Tile, FORWARD, true, Output>), persistent_blocks(grid), Tile::THREADS,
                       sizeof(Memory), stream, planes, filters, parameters);
  } else {
    CCONVNET_LAUNCH_90((conv_halo<Tile, FORWARD, false, Output>), persistent_blocks(grid), Tile::THREADS,
                       sizeof(Memory), stream, planes, filters, parameters);
  }
}

// ---- rows -------------------------------------------------------------------------------------------------

template <class Tile>
void launch_fprop(const ConvProblem& problem, const FpropArguments& args, Stream stream) {
  using T = typename Tile::Element;
  const EpilogueOutput<T> output = fprop_output<T>(problem, args);
  launch<Tile, true>(problem, args.x, args.w, problem.pixel_pitch(), output, stream);
  output.after(args.epilogue, stream);
  apply(args.statistics, problem, args.y, args.sums, stream);
}

template <class Tile>
void launch_dgrad(const ConvProblem& problem, const DgradArguments& args, Stream stream) {
  using T = typename Tile::Element;
  T* const dx = static_cast<T*>(args.dx);
  const InputGradientOutput<T> output(args.epilogue, dx, whole_groups(problem.c_per_group(), dx), nullptr);
  launch<Tile, false>(problem, args.dy, args.w, problem.c, output, stream);
  if (args.epilogue.db) bias_grad(pixels_of(problem), dx, args.epilogue.db, args.sums, stream);
}

template <class Tile, bool FORWARD>
bool supports(const ConvProblem& problem) {
  const HaloImages of = HaloImages::of<FORWARD>(problem);
  return problem.precision == Precision::bf16 && problem.stride_h == 1 && problem.stride_w == 1 &&
         of.taps > 1 && of.channels % Tile::SLAB == 0 && problem.c_per_group() % 8 == 0 && of.is_stream() &&
         of.pixels(Tile::BLOCK_M) <= Tile::PIXELS && has_warp_groups();
}

size_t no_workspace(const ConvProblem&) {
  return 0;
}

template <class Tile, bool FORWARD>
int64_t cycles(const ConvProblem& problem) {
  const HaloImages of = HaloImages::of<FORWARD>(problem);
  const HaloShape shape = of.shape(Tile::SLAB, of.pixels(Tile::BLOCK_M));
  return cost::blocks_cycles(
      alone(cost::halo_cost(Tile::BLOCK_M, Tile::BLOCK_N, Tile::SLAB, shape.pixels, shape.taps)),
      grid_of<Tile>(shape.size).count(), int64_t{shape.slabs} * shape.taps,
      int64_t{Tile::BLOCK_M} * Tile::BLOCK_N * 2);
}

template <int... SIZES>
FpropTable::Row fprop_row() {
  using Tile = HaloTile<bfloat16, SIZES...>;
  return {"conv_fprop_wgmma_halo_" + Tile::name(),
          true,
          supports<Tile, true>,
          always,
          no_workspace,
          launch_fprop<Tile>,
          cycles<Tile, true>,
          true};
}

template <int... SIZES>
DgradTable::Row dgrad_row() {
  using Tile = HaloTile<bfloat16, SIZES...>;
  return {"conv_dgrad_wgmma_halo_" + Tile::name(),
          true,
          supports<Tile, false>,
          always,
          no_workspace,
          launch_dgrad<Tile>,
          cycles<Tile, false>,
          true};
}

// ---- wgrad ------------------------------------------------------------------------------------------------

// Sums are always written as copies of the output, also of a single split, and split_reduce makes the output of them: the
// sums of all taps leave no registers for an update.

struct HaloWgradParameters {
  HaloShape shape;
  GemmGrid grid;
  Divider by_tiles;  // of a tap's channels
  int row;           // pixels of the stream from a row of taps to the next
  float* copies;     // of the output, one for each split
};

template <class Tile>
struct HaloWgradPass {
  using T = typename Tile::Element;
  struct Place {
    int filter, channel;  // of all groups
    int row, first;       // of the filters; the tile's first channel in its group
  };

  const TensorMap &gradients, &planes;
  const HaloWgradParameters& args;

  __device__ __forceinline__ Place place(const GemmBlock& block) const {
    int tile;
    const int row = args.by_tiles.divide(static_cast<int>(block.n) / Tile::CHANNELS, tile);
    const int first = tile * Tile::CHANNELS, group = static_cast<int>(block.batch);
    return {group * args.shape.size.m + static_cast<int>(block.m), group * args.shape.channels + first, row,
            first};
  }
  __device__ __forceinline__ void load(typename HaloWgradMemory<Tile>::Stage& stage, ptx::Barrier& barrier,
                                       const Place& at, uint32_t position) const {
    const HaloShape& shape = args.shape;
    int n, h, w;
    const auto locate = [&](int pixel) { n = shape.by_rows.divide(shape.by_pitch.divide(pixel, w), h); };
    locate(static_cast<int>(position));
#pragma unroll
    for (int i = 0; i < Tile::FILTERS; i += Tile::LINE) {
      ptx::load_windows(stage.gradients.at + i * Tile::BLOCK_K, gradients, barrier, at.filter + i, w, h, n, 0,
                        0);
    }
    locate(static_cast<int>(position) + at.row * args.row);
#pragma unroll 4
    for (int i = 0; i < Tile::CHANNELS; i += kPlane) {
      ptx::load_windows(stage.pixels[i / kPlane], planes, barrier, at.channel + i, w - shape.pad_w,
                        h - shape.pad_h, n, 0, 0);
    }
  }
};

template <class Tile>
__global__ void __launch_bounds__(Tile::THREADS, 1)
    conv_halo_wgrad(CCONVNET_MAP gradients, CCONVNET_MAP planes, const HaloWgradParameters args) {
  const HaloShape& shape = args.shape;
  const HaloWgradPass<Tile> pass = {gradients, planes, args};
  multiply_halo_wgrad<Tile>(pass, args.grid, shape.size.k, shape.right,
                            [&](const auto& product, const GemmBlock& block, int tap) {
                              const auto place = pass.place(block);
                              const int end = (place.row * shape.taps_w + tap + 1) * shape.channels;
                              GemmBlock of = block;
                              of.n = end - shape.channels + place.first;
                              const uint32_t size = shape.size.m * shape.size.n;
                              const PlainOutput<float> output = {
                                  args.copies + size_t{block.split} * size * args.grid.batches, true};
                              store_straight(product, output, OutputRows{shape.size.n, block.batch * size},
                                             of.m, of.n, 0, shape.size.m, end);
                            });
}

// The product of a problem: filters by taps and channels, along the stream.
template <class Tile>
struct HaloWgradProduct {
  HaloImages of;
  HaloShape shape;
  int channel_tiles, tiles;
  int splits;

  explicit HaloWgradProduct(const ConvProblem& problem)
      : of(HaloImages::of<true>(problem)), shape(of.shape(Tile::CHANNELS, Tile::PIXELS)) {
    shape.size = {of.outputs, of.taps * of.channels, static_cast<int>(of.positions()), of.groups,
                  Precision::bf16};
    channel_tiles = static_cast<int>(ceil_div(of.channels, Tile::CHANNELS));
    tiles = static_cast<int>(ceil_div(of.outputs, Tile::FILTERS)) * channel_tiles * problem.r * of.groups;
    // As many as fill the multiprocessors, for the least time. They depend on the problem alone.
    const int64_t most = std::clamp<int64_t>(shape.size.k / kMinSplit, 1, 64);
    splits = 1;
    for (int64_t more = 2, least = cycles(1); more <= most; ++more) {
      if (cycles(more) < least) splits = static_cast<int>(more), least = cycles(more);
    }
  }

  GemmGrid grid() const {
    return {static_cast<uint32_t>(ceil_div(of.outputs, Tile::FILTERS)),
            static_cast<uint32_t>(channel_tiles * (of.taps / of.taps_w)), static_cast<uint32_t>(splits),
            static_cast<uint32_t>(of.groups)};
  }
  int64_t cycles(int64_t count) const {
    constexpr cost::TileCost tile =
        alone(cost::halo_wgrad_cost(Tile::FILTERS, Tile::CHANNELS, Tile::COLUMNS, Tile::TAPS, Tile::PIXELS));
    const int64_t written = int64_t{Tile::FILTERS} * Tile::CHANNELS * Tile::TAPS * 4;
    return cost::blocks_cycles(tile, tiles * count, cost::split_length(shape.size, count) / Tile::BLOCK_K,
                               written) +
           cost::copies_cycles(shape.size, std::max<int64_t>(count, 2));
  }
};

template <class Tile>
void launch_wgrad(const ConvProblem& problem, const WgradArguments& args, Stream stream) {
  using Memory = HaloWgradMemory<Tile>;
  constexpr int bytes = sizeof(typename Tile::Element);
  const HaloWgradProduct<Tile> product(problem);
  const HaloImages& of = product.of;
  const GemmGrid grid = product.grid();
  const GradientOutput output(args.update, args.dw, whole_groups(of.channels, args.dw, args.workspace));
  const HaloWgradParameters parameters = {product.shape, grid, Divider(product.channel_tiles),
                                          of.dilation_h * of.pitch(), static_cast<float*>(args.workspace)};
  // dy where the stream's windows begin; none begin behind its rows and columns.
  const TensorMap gradients = window_map(
      images(args.dy, bytes, of.n, of.rows, of.columns, problem.k),
      {0, 0, of.pitch() - of.columns, of.h + of.gap_h() - of.rows, 1, 1, Tile::LINE, Tile::BLOCK_K},
      Memory::Gradients::SWIZZLE);
  const TensorMap planes = window_map(
      images(args.x, bytes, of.n, of.h, of.w, problem.c),
      {-of.pad_w, -of.pad_h, of.gap_w() - of.pad_w, of.gap_h() - of.pad_h, 1, 1, kPlane, Tile::PIXELS},
      Swizzle::none);
  CCONVNET_LAUNCH_90((conv_halo_wgrad<Tile>), persistent_blocks(grid), Tile::THREADS, sizeof(Memory), stream,
                     gradients, planes, parameters);
  split_reduce(problem.w_count(), product.splits, parameters.copies, problem.w_count(), problem.w_count(),
               output, stream);
}

template <int... SIZES>
WgradTable::Row wgrad_row() {
  using Tile = HaloWgradTile<bfloat16, SIZES...>;
  return {"conv_wgrad_wgmma_halo_" + Tile::name(),
          true,
          [](const ConvProblem& problem) {
            const HaloImages of = HaloImages::of<true>(problem);
            return problem.precision == Precision::bf16 && problem.stride_h == 1 && problem.stride_w == 1 &&
                   of.taps_w == Tile::TAPS && of.span_w <= Tile::AHEAD && of.channels % 16 == 0 &&
                   problem.k % 8 == 0 && of.is_stream() && of.pitch() - of.columns <= 127 &&
                   of.h + of.gap_h() - of.rows <= 127 && has_warp_groups();
          },
          always,
          [](const ConvProblem& problem) {
            return size_t{sizeof(float)} * HaloWgradProduct<Tile>(problem).splits * problem.w_count();
          },
          launch_wgrad<Tile>,
          [](const ConvProblem& problem) {
            const HaloWgradProduct<Tile> product(problem);
            return product.cycles(product.splits);
          },
          true};
}

}  // namespace

//         groups, rows of each / 64, columns, channels of a slab, of a line, stages, pixels
std::vector<FpropTable::Row> halo_fprop_rows() {
  return {fprop_row<3, 1, 192, 64, 64, 4, 256>(), fprop_row<3, 1, 128, 64, 64, 6, 256>(),
          fprop_row<2, 2, 128, 64, 64, 4, 384>(), fprop_row<2, 2, 64, 64, 64, 6, 488>(),
          fprop_row<2, 1, 128, 64, 64, 4, 256>(), fprop_row<2, 2, 64, 32, 32, 8, 712>(),
          fprop_row<2, 2, 128, 48, 16, 8, 384>(), fprop_row<2, 2, 96, 48, 16, 8, 384>()};
}

std::vector<DgradTable::Row> halo_dgrad_rows() {
  return {dgrad_row<3, 1, 192, 64, 64, 4, 256>(), dgrad_row<3, 1, 128, 64, 64, 6, 256>(),
          dgrad_row<2, 2, 128, 64, 64, 4, 384>(), dgrad_row<2, 2, 64, 64, 64, 6, 488>(),
          dgrad_row<2, 1, 128, 64, 64, 4, 256>(), dgrad_row<2, 2, 64, 32, 32, 8, 712>(),
          dgrad_row<2, 2, 48, 64, 64, 6, 384>()};
}

//         groups that share channels, filters, taps of a row, stages
std::vector<WgradTable::Row> halo_wgrad_rows() {
  return {wgrad_row<2, 128, 3, 5>(), wgrad_row<1, 256, 3, 4>(), wgrad_row<1, 192, 3, 5>(),
          wgrad_row<1, 128, 3, 6>(), wgrad_row<1, 96, 3, 6>()};
}

}  // namespace cconvnet
