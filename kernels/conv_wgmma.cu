// Convolutions as products of warp groups, for compute capability 9.0 (gemm/wgmma_tile.cuh): the same implicit GEMMs as in
// conv_fprop.cu, conv_dgrad.cu and conv_wgrad.cu, whose windows the copy engine gathers. Sums run in the same order.
//
//         A                 lines along     B                 lines along
// fprop   windows of x      k               filters           k
// dgrad   windows of dy     k               filters           input channels
// wgrad   dy                filters         windows of x      input channels
#include "gemm/conv_arrays.h"
#include "gemm/wgmma_tile.cuh"

namespace cconvnet {
namespace {

// ---- tensor maps ----------------------------------------------------------------------------------------

// Of `pixels` windows of x, `channels` channels of a tap.
WindowRow windows_of(const ConvProblem& problem, int channels, int pixels) {
  return {-problem.pad_w,
          -problem.pad_h,
          problem.pad_w - (problem.s - 1) * problem.dilation_w,
          problem.pad_h - (problem.r - 1) * problem.dilation_h,
          problem.stride_w,
          problem.stride_h,
          channels,
          pixels};
}

// Whether the copy engine knows the windows: as many as the padded image gives, if it is padded alike on all sides.
bool has_window_map(const ConvProblem& problem) {
  const auto fits = [](int size, int windows, int taps, int stride, int padding, int dilation) {
    const int span = (taps - 1) * dilation;
    return stride <= 8 && padding <= 128 && span <= 127 && size + 2 * padding > span &&
           windows == (size + 2 * padding - span - 1) / stride + 1;
  };
  return fits(problem.h, problem.p, problem.r, problem.stride_h, problem.pad_h, problem.dilation_h) &&
         fits(problem.w, problem.q, problem.s, problem.stride_w, problem.pad_w, problem.dilation_w);
}

// Whether the channels of a group can be divided into boxes of so many. A box is of one tap; behind the last tap of the
// last group it may end in zeros.
bool has_boxes(const ConvProblem& problem, int channels, int of_box) {
  return channels % of_box == 0 || (problem.r * problem.s * problem.groups == 1 && channels % 8 == 0);
}

// ---- parameters -------------------------------------------------------------------------------------------

template <class Output>
struct PassParameters {
  ConvProblem problem;
  int c_per_group, k_per_group;
  GemmSize size;
  GemmGrid grid;
  Divider by_width, by_height;   // of the pixels that are counted
  Divider by_channels, by_taps;  // of a filter: the channels of a tap, the taps of a row
  Destination<Output> destination;

  static PassParameters make(const ConvProblem& problem, const GemmSize& size, const GemmGrid& grid,
                             int width, int height, int channels, const Destination<Output>& destination) {
    return {problem,         problem.c_per_group(), problem.k_per_group(), size,       grid, Divider(width),
            Divider(height), Divider(channels),     Divider(problem.s),    destination};
  }
};

// ---- fprop ----------------------------------------------------------------------------------------------

template <class Tile>
struct FpropPass {
  using T = typename Tile::Element;
  static constexpr bool A_ALONG_K = true, B_ALONG_K = true;
  static constexpr int A_LINE = Tile::SLAB, B_LINE = Tile::SLAB;
  struct Place {
    int n, h, w;  // the first window's first pixel
    int first_channel, first_filter;
  };

  const TensorMap &windows, &filters;
  const PassParameters<EpilogueOutput<T>>& args;

  __device__ __forceinline__ Place place(const GemmBlock& block) const {
    int p, q;
    const int n = args.by_height.divide(args.by_width.divide(static_cast<int>(block.m), q), p);
    return {n, p * args.problem.stride_h - args.problem.pad_h, q * args.problem.stride_w - args.problem.pad_w,
            static_cast<int>(block.batch) * args.c_per_group,
            static_cast<int>(block.batch * args.k_per_group + block.n)};
  }
  template <class To>
  __device__ __forceinline__ void load_a(T* slab, To&& to, const Place& at, uint32_t k) const {
    // Behind the end zeros, as of an image behind the last.
    const bool inside = k < static_cast<uint32_t>(args.size.k);
    int c, s;
    const int r = args.by_taps.divide(args.by_channels.divide(inside ? static_cast<int>(k) : 0, c), s);
    ptx::load_windows(slab, windows, to, at.first_channel + c, at.w, at.h, inside ? at.n : args.problem.n,
                      s * args.problem.dilation_w, r * args.problem.dilation_h);
  }
  template <class To>
  __device__ __forceinline__ void load_b(T* slab, To&& to, const Place& at, uint32_t k) const {
    ptx::load_box(slab, filters, to, static_cast<int>(k), at.first_filter);
  }
};

template <class Tile, class T = typename Tile::Element>
__global__ void __launch_bounds__(Tile::THREADS, 1)
    conv_fprop_wgmma(CCONVNET_MAP windows, CCONVNET_MAP filters,
                     const PassParameters<EpilogueOutput<T>> args) {
  multiply_wgmma_tiles<Tile>(FpropPass<Tile>{windows, filters, args}, args.grid, args.size.k,
                             [&](const auto& product, const GemmBlock& block) {
                               const uint32_t first_channel = block.batch * args.k_per_group;
                               args.destination.store(product, block,
                                                      OutputRows{args.problem.y_pitch, first_channel},
                                                      OutputRows{args.problem.k, first_channel},
                                                      first_channel, args.size.m, args.size.n);
                             });
}

template <class Tile>
void launch_fprop(const ConvProblem& problem, const FpropArguments& args, Stream stream) {
  using T = typename Tile::Element;
  constexpr int bytes = sizeof(T);
  const GemmSize size = fprop_size(problem);
  const GemmGrid grid = GemmGrid::make<typename Tile::Cluster>(size);
  const EpilogueOutput<T> output = fprop_output<T>(problem, args);
  auto parameters = PassParameters<EpilogueOutput<T>>::make(
      problem, size, grid, problem.q, problem.p, problem.c_per_group(),
      {output, problem.outputs(), grid, args.workspace});
  parameters.problem.y_pitch = problem.pixel_pitch();  // also where y is not placed
  constexpr Swizzle swizzle = WgmmaMemory<Tile, FpropPass<Tile>>::SlabA::SWIZZLE;
  const TensorMap windows = window_map(images(args.x, bytes, problem.n, problem.h, problem.w, problem.c),
                                       windows_of(problem, Tile::SLAB, Tile::A_ROWS), swizzle);
  const TensorMap filters =
      tiled_map(matrix(args.w, bytes, problem.k, size.k), {Tile::SLAB, Tile::B_ROWS}, swizzle);
  CCONVNET_LAUNCH_90_WITH(LaunchOptions{Tile::CLUSTER}, (conv_fprop_wgmma<Tile>),
                          persistent_blocks(grid, 3, Tile::CLUSTER), Tile::THREADS,
                          sizeof(WgmmaMemory<Tile, FpropPass<Tile>>), stream, windows, filters, parameters);
  parameters.destination.reduce(grid, problem.k, problem.pixel_pitch(), stream);
  output.after(args.epilogue, stream);
  apply(args.statistics, problem, args.y, args.sums, stream);
}

template <class Tile>
FpropTable::Row fprop_row() {
  return {"conv_fprop_wgmma_" + Tile::name(),
          true,
          [](const ConvProblem& problem) {
            return problem.precision == Tile::PRECISION &&
                   has_boxes(problem, problem.c_per_group(), Tile::SLAB) && has_window_map(problem) &&
                   has_warp_groups();
          },
          always,
          [](const ConvProblem& problem) { return split_workspace(fprop_size(problem), problem.outputs()); },
          launch_fprop<Tile>,
          [](const ConvProblem& problem) { return predicted_cycles<Tile>(fprop_size(problem)); },
          true};
}

// ---- dgrad, of stride 1 -------------------------------------------------------------------------------------

// As in conv_dgrad.cu, where strides give several classes.
GemmSize dgrad_size(const ConvProblem& problem) {
  return {problem.n * problem.h * problem.w, problem.c_per_group(),
          problem.r * problem.s * problem.k_per_group(), problem.groups, problem.precision};
}

template <class Tile>
struct DgradPass {
  using T = typename Tile::Element;
  static constexpr bool A_ALONG_K = true, B_ALONG_K = false;
  static constexpr int A_LINE = Tile::SLAB,
                       B_LINE = (Tile::B_ROWS * sizeof(T) % 128 == 0 ? 128 : 64) / sizeof(T);
  struct Place {
    int n, p, q;  // the first pixel that the last tap reads
    int first_filter, first_channel;
  };

  const TensorMap &windows, &filters;
  const PassParameters<InputGradientOutput<T>>& args;

  __device__ __forceinline__ Place place(const GemmBlock& block) const {
    const ConvProblem& problem = args.problem;
    int h, w;
    const int n = args.by_height.divide(args.by_width.divide(static_cast<int>(block.m), w), h);
    return {n, h + problem.pad_h - (problem.r - 1) * problem.dilation_h,
            w + problem.pad_w - (problem.s - 1) * problem.dilation_w,
            static_cast<int>(block.batch) * args.k_per_group, static_cast<int>(block.n)};
  }
  template <class To>
  __device__ __forceinline__ void load_a(T* slab, To&& to, const Place& at, uint32_t k) const {
    const ConvProblem& problem = args.problem;
    const bool inside = k < static_cast<uint32_t>(args.size.k);
    int channel, s;
    const int r = args.by_taps.divide(args.by_channels.divide(inside ? static_cast<int>(k) : 0, channel), s);
    ptx::load_windows(slab, windows, to, at.first_filter + channel, at.q, at.p, inside ? at.n : problem.n,
                      (problem.s - 1 - s) * problem.dilation_w, (problem.r - 1 - r) * problem.dilation_h);
  }
  template <class To>
  __device__ __forceinline__ void load_b(T* slab, To&& to, const Place& at, uint32_t k) const {
    int channel;
    const int tap = args.by_channels.divide(static_cast<int>(k), channel);
#pragma unroll
    for (int i = 0; i < Tile::B_ROWS; i += B_LINE) {
      ptx::load_box(slab + i * Tile::SLAB, filters, to, at.first_channel + i, tap, at.first_filter + channel);
    }
  }
};

template <class Tile, class T = typename Tile::Element>
__global__ void __launch_bounds__(Tile::THREADS, 1)
    conv_dgrad_wgmma(CCONVNET_MAP windows, CCONVNET_MAP filters,
                     const PassParameters<InputGradientOutput<T>> args) {
  multiply_wgmma_tiles<Tile>(DgradPass<Tile>{windows, filters, args}, args.grid, args.size.k,
                             [&](const auto& product, const GemmBlock& block) {
                               const uint32_t first_channel = block.batch * args.c_per_group;
                               args.destination.store(product, block,
                                                      OutputRows{args.problem.c, first_channel},
                                                      first_channel, args.size.m, args.size.n);
                             });
}

template <class Tile>
void launch_dgrad(const ConvProblem& problem, const DgradArguments& args, Stream stream) {
  using T = typename Tile::Element;
  using Memory = WgmmaMemory<Tile, DgradPass<Tile>>;
  constexpr int bytes = sizeof(T);
  const GemmSize size = dgrad_size(problem);
  const GemmGrid grid = GemmGrid::make<typename Tile::Cluster>(size);
  T* const dx = static_cast<T*>(args.dx);
  const InputGradientOutput<T> output(args.epilogue, dx, whole_groups(size.n, dx, args.workspace), nullptr);
  const auto parameters = PassParameters<InputGradientOutput<T>>::make(
      problem, size, grid, problem.w, problem.h, problem.k_per_group(),
      {output, problem.x_count(), grid, args.workspace});
  const int down = (problem.r - 1) * problem.dilation_h, right = (problem.s - 1) * problem.dilation_w;
  const TensorMap windows = window_map(images(args.dy, bytes, problem.n, problem.p, problem.q, problem.k),
                                       {problem.pad_w - right, problem.pad_h - down, -problem.pad_w,
                                        -problem.pad_h, 1, 1, Tile::SLAB, Tile::A_ROWS},
                                       Memory::SlabA::SWIZZLE);
  const TensorMap filters = tiled_map(taps_of_filters(problem, args.w, bytes),
                                      {DgradPass<Tile>::B_LINE, 1, Tile::SLAB}, Memory::SlabB::SWIZZLE);
  CCONVNET_LAUNCH_90_WITH(LaunchOptions{Tile::CLUSTER}, (conv_dgrad_wgmma<Tile>),
                          persistent_blocks(grid, 3, Tile::CLUSTER), Tile::THREADS, sizeof(Memory), stream,
                          windows, filters, parameters);
  parameters.destination.reduce(grid, problem.c, stream);
  if (args.epilogue.db) bias_grad(pixels_of(problem), dx, args.epilogue.db, args.sums, stream);
}

template <class Tile>
DgradTable::Row dgrad_row() {
  return {"conv_dgrad_wgmma_" + Tile::name(),
          true,
          [](const ConvProblem& problem) {
            return problem.precision == Tile::PRECISION && problem.stride_h == 1 && problem.stride_w == 1 &&
                   has_boxes(problem, problem.k_per_group(), Tile::SLAB) && problem.c_per_group() % 8 == 0 &&
                   has_window_map(problem) && has_warp_groups();
          },
          always,
          [](const ConvProblem& problem) { return split_workspace(dgrad_size(problem), problem.x_count()); },
          launch_dgrad<Tile>,
          [](const ConvProblem& problem) { return predicted_cycles<Tile>(dgrad_size(problem)); },
          true};
}

// ---- wgrad --------------------------------------------------------------------------------------------------

// A line of B is LINE channels of a tap.
template <class Tile, int LINE>
struct WgradPass {
  using T = typename Tile::Element;
  static constexpr bool A_ALONG_K = false, B_ALONG_K = false;
  static constexpr int A_LINE = 128 / sizeof(T), B_LINE = LINE;
  struct Place {
    int first_filter, first_channel;
    int first_weight;
  };

  const TensorMap &gradients, &windows;
  const PassParameters<GradientOutput>& args;

  __device__ __forceinline__ Place place(const GemmBlock& block) const {
    return {static_cast<int>(block.batch * args.k_per_group + block.m),
            static_cast<int>(block.batch) * args.c_per_group, static_cast<int>(block.n)};
  }
  template <class To>
  __device__ __forceinline__ void load_a(T* slab, To&& to, const Place& at, uint32_t k) const {
#pragma unroll
    for (int i = 0; i < Tile::A_ROWS; i += A_LINE) {
      ptx::load_box(slab + i * Tile::SLAB, gradients, to, at.first_filter + i, static_cast<int>(k));
    }
  }
  template <class To>
  __device__ __forceinline__ void load_b(T* slab, To&& to, const Place& at, uint32_t k) const {
    const ConvProblem& problem = args.problem;
    int p, q;
    const int n = args.by_height.divide(args.by_width.divide(static_cast<int>(k), q), p);
    const int h = p * problem.stride_h - problem.pad_h, w = q * problem.stride_w - problem.pad_w;
#pragma unroll 4
    for (int i = 0; i < Tile::B_ROWS; i += B_LINE) {
      const bool inside = at.first_weight + i < args.size.n;
      int c, s;
      const int r = args.by_taps.divide(args.by_channels.divide(inside ? at.first_weight + i : 0, c), s);
      ptx::load_windows(slab + i * Tile::SLAB, windows, to, at.first_channel + c, w, h,
                        inside ? n : problem.n, s * problem.dilation_w, r * problem.dilation_h);
    }
  }
};

template <class Tile, int LINE>
__global__ void __launch_bounds__(Tile::THREADS, 1)
    conv_wgrad_wgmma(CCONVNET_MAP gradients, CCONVNET_MAP windows,
                     const PassParameters<GradientOutput> args) {
  multiply_wgmma_tiles<Tile>(WgradPass<Tile, LINE>{gradients, windows, args}, args.grid, args.size.k,
                             [&](const auto& product, const GemmBlock& block) {
                               const OutputRows layout = {args.size.n,
                                                          block.batch * args.k_per_group * args.size.n};
                               args.destination.store(product, block, layout, 0, args.size.m, args.size.n);
                             });
}

template <class Tile, int LINE>
void launch_wgrad(const ConvProblem& problem, const WgradArguments& args, Stream stream) {
  using T = typename Tile::Element;
  using Pass = WgradPass<Tile, LINE>;
  using Memory = WgmmaMemory<Tile, Pass>;
  constexpr int bytes = sizeof(T);
  const GemmSize size = wgrad_size(problem);
  const GemmGrid grid = GemmGrid::make<typename Tile::Cluster>(size);
  const GradientOutput output(args.update, args.dw, whole_groups(size.n, args.dw, args.workspace));
  const auto parameters =
      PassParameters<GradientOutput>::make(problem, size, grid, problem.q, problem.p, problem.c_per_group(),
                                           {output, problem.w_count(), grid, args.workspace});
  const TensorMap gradients = tiled_map(matrix(args.dy, bytes, size.k, problem.k), {Pass::A_LINE, Tile::SLAB},
                                        Memory::SlabA::SWIZZLE);
  const TensorMap windows = window_map(images(args.x, bytes, problem.n, problem.h, problem.w, problem.c),
                                       windows_of(problem, LINE, Tile::SLAB), Memory::SlabB::SWIZZLE);
  CCONVNET_LAUNCH_90_WITH(LaunchOptions{Tile::CLUSTER}, (conv_wgrad_wgmma<Tile, LINE>),
                          persistent_blocks(grid, 3, Tile::CLUSTER), Tile::THREADS, sizeof(Memory), stream,
                          gradients, windows, parameters);
  parameters.destination.reduce(grid, problem.w_count(), stream);
}

template <class Tile, int LINE>
WgradTable::Row wgrad_row() {
  return {"conv_wgrad_wgmma_" + Tile::name() + "_lines_of_" + std::to_string(LINE),
          true,
          [](const ConvProblem& problem) {
            return problem.precision == Tile::PRECISION && problem.k % 8 == 0 &&
                   has_boxes(problem, problem.c_per_group(), LINE) && has_window_map(problem) &&
                   has_warp_groups();
          },
          always,
          [](const ConvProblem& problem) { return split_workspace(wgrad_size(problem), problem.w_count()); },
          launch_wgrad<Tile, LINE>,
          [](const ConvProblem& problem) { return predicted_cycles<Tile>(wgrad_size(problem)); },
          true};
}

// Tiles of slabs of 64 and of 16.
template <int BLOCK_M, int BLOCK_N, int STAGES, Pairing PAIRING = Pairing::none>
using Tile64 = WgmmaTile<bfloat16, BLOCK_M, BLOCK_N, 64, STAGES, PAIRING>;
template <int BLOCK_M, int BLOCK_N, int STAGES, Pairing PAIRING = Pairing::none>
using Tile16 = WgmmaTile<bfloat16, BLOCK_M, BLOCK_N, 16, STAGES, PAIRING>;

}  // namespace

std::vector<FpropTable::Row> wgmma_fprop_rows() {
  return {fprop_row<Tile64<128, 128, 4>>(),
          fprop_row<Tile64<128, 256, 3>>(),
          fprop_row<Tile64<128, 192, 4>>(),
          fprop_row<Tile64<256, 128, 3>>(),
          fprop_row<Tile64<256, 64, 4>>(),
          fprop_row<Tile16<256, 128, 3>>(),
          fprop_row<Tile16<256, 96, 4>>(),
          fprop_row<Tile64<128, 128, 4, Pairing::along_m>>(),
          fprop_row<Tile64<128, 256, 3, Pairing::along_m>>(),
          fprop_row<Tile64<128, 192, 4, Pairing::along_m>>(),
          fprop_row<Tile64<256, 128, 3, Pairing::along_m>>(),
          fprop_row<Tile16<256, 128, 3, Pairing::along_m>>()};
}

std::vector<DgradTable::Row> wgmma_dgrad_rows() {
  return {dgrad_row<Tile64<128, 128, 4>>(),
          dgrad_row<Tile64<128, 192, 4>>(),
          dgrad_row<Tile64<128, 256, 3>>(),
          dgrad_row<Tile64<256, 128, 3>>(),
          dgrad_row<Tile64<256, 64, 4>>(),
          dgrad_row<Tile16<256, 64, 4>>(),
          dgrad_row<Tile64<128, 256, 3, Pairing::along_m>>(),
          dgrad_row<Tile64<128, 192, 4, Pairing::along_m>>(),
          dgrad_row<Tile64<256, 128, 3, Pairing::along_m>>()};
}

std::vector<WgradTable::Row> wgmma_wgrad_rows() {
  return {wgrad_row<Tile64<128, 128, 4>, 64>(),
          wgrad_row<Tile64<128, 192, 4>, 64>(),
          wgrad_row<Tile64<128, 256, 3>, 64>(),
          wgrad_row<Tile64<256, 128, 3>, 64>(),
          wgrad_row<Tile64<128, 192, 4>, 16>(),
          wgrad_row<Tile64<128, 96, 4>, 16>(),
          wgrad_row<Tile64<128, 256, 3, Pairing::along_m>, 64>(),
          wgrad_row<Tile64<128, 128, 4, Pairing::along_n>, 64>(),
          wgrad_row<Tile64<128, 192, 4, Pairing::along_n>, 64>()};
}

}  // namespace cconvnet
