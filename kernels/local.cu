// Locally connected layers: every output position has filters of its own. That leaves nothing to share
// between positions. So each pass is one matrix product per position (forward, weights) or per pixel (input)
// and group, all in one launch:
//
//         one per           m            n                 k                   the sums run in the order
// fprop   output position   N            K/groups          R*S*C/groups        r, s, c
// dgrad   input pixel       N            C/groups          windows * K/groups  p, q, k
// wgrad   output position   K/groups     R*S*C/groups      N                   n
//
// "windows" are those that contain the pixel: dgrad gathers, so each gradient is written once. A weight is
// read by one block for each tile of images. gemm_tile.cuh describes how the threads of a block share a tile;
// splits along k and the choice of the tile are those of implicit_gemm.cuh.
//
// Position or pixel is the same for a whole block. So whether an element is in the image depends on its row
// or on its depth alone, and its offset is the sum of one part for each.
#include "gemm/implicit_gemm.cuh"

namespace cconvnet {
namespace {

// The data that the operands need; LocalParameters adds the arrays.
struct LocalLayout {
  LocalProblem problem;
  int c_per_group, k_per_group;
  uint32_t x_image, y_image;  // elements of one image
  GemmSize size;              // of the largest product
  GemmGrid grid;
  Divider by_c, by_s, by_k;
};

template <class T, class Output>
struct LocalParameters : LocalLayout {
  const T *a, *b;
  Destination<Output> destination;
};

// An operand whose offsets are sums of a row's part and a depth's part, either of which may be outside.
template <class View, class T, bool ALONG_K_>
struct Operand {
  static constexpr bool ALONG_K = ALONG_K_;
  using RowPart = uint32_t;
  using DepthPart = uint32_t;

  const LocalLayout& args;
  const View& view;
  const T* data;

  __device__ __forceinline__ Location locate(RowPart row, DepthPart depth) const {
    const bool inside = row != kOutside && depth != kOutside;
    return {row + depth, inside};
  }
};

// A block's view of the problem, in shared memory like GemmBlock. Sets up the block's one View.
template <class View>
__device__ __forceinline__ const View& shared_view(const LocalLayout& args, uint32_t batch) {
  auto& view = shared_memory<View>();
  if (threadIdx.x == 0) view = View::make(args, batch / args.problem.groups, batch % args.problem.groups);
  __syncthreads();
  return view;
}

// ---- forward and weights: one output position -----------------------------------------------------------

struct Position {
  uint32_t first_h, first_w;  // the window's first pixel; may be outside, that is, have wrapped around
  uint32_t first_input;       // channel
  // Channel k of the group is element first_output + k of an image of y, of the biases, and of the filters.
  uint32_t first_output;

  static __device__ __forceinline__ Position make(const LocalLayout& args, uint32_t position,
                                                  uint32_t group) {
    const ConvProblem& problem = args.problem;
    return {position / problem.q * problem.stride_h - problem.pad_h,
            position % problem.q * problem.stride_w - problem.pad_w, group * args.c_per_group,
            position * problem.k + group * args.k_per_group};
  }

  // The offset in an image of the pixel that weight i of a filter reads; i is (r, s, c) in one number.
  __device__ __forceinline__ uint32_t pixel(const LocalLayout& args, uint32_t i) const {
    const ConvProblem& problem = args.problem;
    if (i >= static_cast<uint32_t>(problem.r * problem.s * args.c_per_group)) return kOutside;
    int c, s;
    const uint32_t r = args.by_s.divide(args.by_c.divide(i, c), s);
    const uint32_t h = first_h + r, w = first_w + s;
    if (h >= static_cast<uint32_t>(problem.h) || w >= static_cast<uint32_t>(problem.w)) return kOutside;
    return (h * problem.w + w) * problem.c + first_input + c;
  }
};

// fprop's A: the window in every image.
template <class T>
struct Windows : Operand<Position, T, true> {
  using Base = Operand<Position, T, true>;
  using Base::args, Base::view;
  using typename Base::RowPart, typename Base::DepthPart;

  __device__ __forceinline__ RowPart row(uint32_t m) const {
    return m < static_cast<uint32_t>(args.size.m) ? m * args.x_image : kOutside;
  }
  __device__ __forceinline__ DepthPart depth(uint32_t k) const { return view.pixel(args, k); }
};

// fprop's B: the position's filters, a plain matrix.
template <class T>
struct Filters : Operand<Position, T, true> {
  using Base = Operand<Position, T, true>;
  using Base::args, Base::view;
  using typename Base::RowPart, typename Base::DepthPart;

  __device__ __forceinline__ RowPart row(uint32_t n) const {
    return n < static_cast<uint32_t>(args.size.n) ? (view.first_output + n) * args.size.k : kOutside;
  }
  __device__ __forceinline__ DepthPart depth(uint32_t k) const {
    return k < static_cast<uint32_t>(args.size.k) ? k : kOutside;
  }
};

struct FpropOutput {
  const LocalLayout& args;
  const Position& view;
  __device__ __forceinline__ uint32_t row(uint32_t m) const { return m * args.y_image + view.first_output; }
};

// wgrad's A: dy at the position, transposed.
template <class T>
struct Gradients : Operand<Position, T, false> {
  using Base = Operand<Position, T, false>;
  using Base::args, Base::view;
  using typename Base::RowPart, typename Base::DepthPart;

  __device__ __forceinline__ RowPart row(uint32_t m) const {
    return m < static_cast<uint32_t>(args.size.m) ? view.first_output + m : kOutside;
  }
  __device__ __forceinline__ DepthPart depth(uint32_t k) const {
    return k < static_cast<uint32_t>(args.size.k) ? k * args.y_image : kOutside;
  }
};

// wgrad's B: the window in every image, transposed.
template <class T>
struct TransposedWindows : Operand<Position, T, false> {
  using Base = Operand<Position, T, false>;
  using Base::args, Base::view;
  using typename Base::RowPart, typename Base::DepthPart;

  __device__ __forceinline__ RowPart row(uint32_t n) const { return view.pixel(args, n); }
  __device__ __forceinline__ DepthPart depth(uint32_t k) const {
    return k < static_cast<uint32_t>(args.size.k) ? k * args.x_image : kOutside;
  }
};

struct WgradOutput {
  const LocalLayout& args;
  const Position& view;
  __device__ __forceinline__ uint32_t row(uint32_t m) const { return (view.first_output + m) * args.size.n; }
};

// ---- input: one pixel -----------------------------------------------------------------------------------

struct Pixel {
  int h, w;                            // with the padding: of the image's border
  uint32_t first_p, first_q, columns;  // of the windows that contain it
  uint32_t first_input;                // in an image of dx
  uint32_t first_output;               // channel
  int gemm_k;

  struct Range {
    int begin, count;
  };

  // The windows along one axis that contain padded coordinate i: index*stride <= i < index*stride + filter.
  static __device__ __forceinline__ Range windows(int i, int filter, int stride, int windows) {
    const int begin = i < filter ? 0 : (i - filter) / stride + 1;
    return {begin, max(min(i / stride + 1, windows) - begin, 0)};
  }

  static __device__ __forceinline__ Pixel make(const LocalLayout& args, uint32_t pixel, uint32_t group) {
    const ConvProblem& problem = args.problem;
    const int h = pixel / problem.w + problem.pad_h, w = pixel % problem.w + problem.pad_w;
    const Range p = windows(h, problem.r, problem.stride_h, problem.p),
                q = windows(w, problem.s, problem.stride_w, problem.q);
    return {h,
            w,
            static_cast<uint32_t>(p.begin),
            static_cast<uint32_t>(q.begin),
            static_cast<uint32_t>(q.count),
            pixel * problem.c + group * args.c_per_group,
            group * args.k_per_group,
            p.count * q.count * args.k_per_group};
  }

  // Divides k into window (p, q) and output channel.
  __device__ __forceinline__ uint32_t window(const LocalLayout& args, uint32_t k, uint32_t& q,
                                             uint32_t& channel) const {
    int rest;
    const uint32_t window = args.by_k.divide(k, rest);
    channel = first_output + rest;
    q = first_q + window % columns;
    return first_p + window / columns;
  }
};

// dgrad's A: dy of the windows in every image.
template <class T>
struct Reached : Operand<Pixel, T, true> {
  using Base = Operand<Pixel, T, true>;
  using Base::args, Base::view;
  using typename Base::RowPart, typename Base::DepthPart;

  __device__ __forceinline__ RowPart row(uint32_t m) const {
    return m < static_cast<uint32_t>(args.size.m) ? m * args.y_image : kOutside;
  }
  __device__ __forceinline__ DepthPart depth(uint32_t k) const {
    if (k >= static_cast<uint32_t>(view.gemm_k)) return kOutside;
    uint32_t q, channel;
    const uint32_t p = view.window(args, k, q, channel);
    return (p * args.problem.q + q) * args.problem.k + channel;
  }
};

// dgrad's B: the weights by which each window reads the pixel, contiguous along the input channel.
template <class T>
struct Weights : Operand<Pixel, T, false> {
  using Base = Operand<Pixel, T, false>;
  using Base::args, Base::view;
  using typename Base::RowPart, typename Base::DepthPart;

  __device__ __forceinline__ RowPart row(uint32_t n) const {
    return n < static_cast<uint32_t>(args.size.n) ? n : kOutside;
  }
  __device__ __forceinline__ DepthPart depth(uint32_t k) const {
    if (k >= static_cast<uint32_t>(view.gemm_k)) return kOutside;
    const ConvProblem& problem = args.problem;
    uint32_t q, channel;
    const uint32_t p = view.window(args, k, q, channel);
    const uint32_t r = view.h - p * problem.stride_h, s = view.w - q * problem.stride_w;
    return ((((p * problem.q + q) * problem.k + channel) * problem.r + r) * problem.s + s) * args.size.n;
  }
};

struct DgradOutput {
  const LocalLayout& args;
  const Pixel& view;
  __device__ __forceinline__ uint32_t row(uint32_t m) const { return m * args.x_image + view.first_input; }
};

// ---- kernels --------------------------------------------------------------------------------------------

template <class Tile, class T = typename Tile::Element>
__global__ void __launch_bounds__(Tile::THREADS, Tile::MIN_BLOCKS)
    local_fprop_gemm(LocalParameters<T, EpilogueOutput<T>> args) {
  const GemmBlock& block = GemmBlock::shared<Tile>(args.grid);
  const Position& view = shared_view<Position>(args, block.batch);
  const auto product =
      multiply_tile<Tile>(Windows<T>{{args, view, args.a}}, Filters<T>{{args, view, args.b}}, block.m,
                          block.n, block.steps<Tile>(args.size.k, args.grid.splits));
  args.destination.store(product, block, FpropOutput{args, view}, view.first_output, args.size.m,
                         args.size.n);
}

template <class Tile, class T = typename Tile::Element>
__global__ void __launch_bounds__(Tile::THREADS, Tile::MIN_BLOCKS)
    local_dgrad_gemm(LocalParameters<T, PlainOutput<T>> args) {
  const GemmBlock& block = GemmBlock::shared<Tile>(args.grid);
  const Pixel& view = shared_view<Pixel>(args, block.batch);
  const auto product =
      multiply_tile<Tile>(Reached<T>{{args, view, args.a}}, Weights<T>{{args, view, args.b}}, block.m,
                          block.n, block.steps<Tile>(view.gemm_k, args.grid.splits));
  args.destination.store(product, block, DgradOutput{args, view}, 0, args.size.m, args.size.n);
}

template <class Tile, class T = typename Tile::Element>
__global__ void __launch_bounds__(Tile::THREADS, Tile::MIN_BLOCKS)
    local_wgrad_gemm(LocalParameters<T, GradientOutput> args) {
  const GemmBlock& block = GemmBlock::shared<Tile>(args.grid);
  const Position& view = shared_view<Position>(args, block.batch);
  const auto product =
      multiply_tile<Tile>(Gradients<T>{{args, view, args.a}}, TransposedWindows<T>{{args, view, args.b}},
                          block.m, block.n, block.steps<Tile>(args.size.k, args.grid.splits));
  args.destination.store(product, block, WgradOutput{args, view}, 0, args.size.m, args.size.n);
}

// ---- launchers ------------------------------------------------------------------------------------------

GemmSize fprop_size(const LocalProblem& problem) {
  return {problem.n, problem.k_per_group(), problem.r * problem.s * problem.c_per_group(),
          problem.positions() * problem.groups, Precision::fp32};
}

GemmSize dgrad_size(const LocalProblem& problem) {
  const auto windows = [](int filter, int stride, int most) {
    return static_cast<int>(std::min<int64_t>(ceil_div(filter, stride), most));
  };
  return {problem.n, problem.c_per_group(),
          windows(problem.r, problem.stride_h, problem.p) * windows(problem.s, problem.stride_w, problem.q) *
              problem.k_per_group(),
          problem.h * problem.w * problem.groups, Precision::fp32};
}

GemmSize wgrad_size(const LocalProblem& problem) {
  return {problem.k_per_group(), problem.r * problem.s * problem.c_per_group(), problem.n,
          problem.positions() * problem.groups, Precision::fp32};
}

// `count` is the number of elements of the output, whose channels repeat.
template <class Tile, class Output, class Kernel, class T = typename Tile::Element>
void launch(const Kernel& kernel, const LocalProblem& problem, const GemmSize& size, const void* a,
            const void* b, const Output& output, int count, int channels, void* workspace, Stream stream) {
  const GemmGrid grid = GemmGrid::make<Tile>(size);
  const LocalLayout layout = {problem,
                              problem.c_per_group(),
                              problem.k_per_group(),
                              static_cast<uint32_t>(problem.x_count() / problem.n),
                              static_cast<uint32_t>(problem.y_count() / problem.n),
                              size,
                              grid,
                              Divider(problem.c_per_group()),
                              Divider(problem.s),
                              Divider(problem.k_per_group())};
  const LocalParameters<T, Output> parameters = {
      layout, static_cast<const T*>(a), static_cast<const T*>(b), {output, count, grid, workspace}};
  CCONVNET_LAUNCH(kernel, grid.blocks(), Tile::THREADS, stream, parameters);
  parameters.destination.reduce(grid, channels, stream);
}

template <class Tile>
void launch_fprop(const LocalProblem& problem, const FpropArguments& args, Stream stream) {
  using T = typename Tile::Element;
  const GemmSize size = fprop_size(problem);
  T* const y = static_cast<T*>(args.y);
  const EpilogueOutput<T> output(args.epilogue, y, whole_groups(size.n, y, args.workspace));
  // An image of y has a bias for every element.
  launch<Tile>(local_fprop_gemm<Tile>, problem, size, args.x, args.w, output, problem.y_count(),
               problem.bias_count(), args.workspace, stream);
  output.after(args.epilogue, stream);
}

template <class Tile>
void launch_dgrad(const LocalProblem& problem, const DgradArguments& args, Stream stream) {
  using T = typename Tile::Element;
  const GemmSize size = dgrad_size(problem);
  T* const dx = static_cast<T*>(args.dx);
  const PlainOutput<T> output = {dx, whole_groups(size.n, dx, args.workspace)};
  launch<Tile>(local_dgrad_gemm<Tile>, problem, size, args.dy, args.w, output, problem.x_count(), problem.c,
               args.workspace, stream);
  apply(args.epilogue, problem.precision, pixels_of(problem), dx, args.sums, stream);
}

template <class Tile>
void launch_wgrad(const LocalProblem& problem, const WgradArguments& args, Stream stream) {
  const GemmSize size = wgrad_size(problem);
  const GradientOutput output(args.update, args.dw, whole_groups(size.n, args.dw, args.workspace));
  launch<Tile>(local_wgrad_gemm<Tile>, problem, size, args.dy, args.x, output, problem.w_count(),
               problem.w_count(), args.workspace, stream);
}

// ---- selection ------------------------------------------------------------------------------------------

// Vectors run along channels, and must not leave their group.
template <class Tile>
bool whole_vectors_of_x(const LocalProblem& problem) {
  return Tile::multiplies(problem.precision) && problem.c_per_group() % Tile::WHOLE == 0;
}
template <class Tile>
bool whole_vectors_of_both(const LocalProblem& problem) {
  return whole_vectors_of_x<Tile>(problem) && problem.k_per_group() % Tile::WHOLE == 0;
}

template <class Tile>
LocalFpropTable::Row fprop_row() {
  return {"local_fprop_gemm_" + Tile::name(),
          Tile::WHOLE > 1,
          whole_vectors_of_x<Tile>,
          always,
          [](const LocalProblem& problem) { return split_workspace(fprop_size(problem), problem.y_count()); },
          launch_fprop<Tile>,
          [](const LocalProblem& problem) { return predicted_cycles<Tile>(fprop_size(problem)); }};
}

template <class Tile>
LocalDgradTable::Row dgrad_row() {
  return {"local_dgrad_gemm_" + Tile::name(),
          Tile::WHOLE > 1,
          whole_vectors_of_both<Tile>,
          always,
          [](const LocalProblem& problem) { return split_workspace(dgrad_size(problem), problem.x_count()); },
          launch_dgrad<Tile>,
          [](const LocalProblem& problem) { return predicted_cycles<Tile>(dgrad_size(problem)); }};
}

template <class Tile>
LocalWgradTable::Row wgrad_row() {
  return {"local_wgrad_gemm_" + Tile::name(),
          Tile::WHOLE > 1,
          whole_vectors_of_both<Tile>,
          always,
          [](const LocalProblem& problem) { return split_workspace(wgrad_size(problem), problem.w_count()); },
          launch_wgrad<Tile>,
          [](const LocalProblem& problem) { return predicted_cycles<Tile>(wgrad_size(problem)); }};
}

template <class T>
using Large = Tile<T, 64, 64, 8, 8, 4, 4>;
template <class T>
using Small = Tile<T, 32, 32, 8, 4, 4, 4>;
template <class T>
using Scalar = Tile<T, 32, 32, 8, 4, 4, 1>;

const LocalFpropTable& fprop_table() {
  static const LocalFpropTable table(
      "local_fprop",
      {fprop_row<Large<float>>(), fprop_row<Small<float>>(), fprop_row<Scalar<float>>(),
       fprop_row<Large<bfloat16>>(), fprop_row<Small<bfloat16>>(), fprop_row<Scalar<bfloat16>>()});
  return table;
}

const LocalDgradTable& dgrad_table() {
  static const LocalDgradTable table(
      "local_dgrad",
      {dgrad_row<Large<float>>(), dgrad_row<Small<float>>(), dgrad_row<Scalar<float>>(),
       dgrad_row<Large<bfloat16>>(), dgrad_row<Small<bfloat16>>(), dgrad_row<Scalar<bfloat16>>()});
  return table;
}

const LocalWgradTable& wgrad_table() {
  static const LocalWgradTable table(
      "local_wgrad",
      {wgrad_row<Large<float>>(), wgrad_row<Small<float>>(), wgrad_row<Scalar<float>>(),
       wgrad_row<Large<bfloat16>>(), wgrad_row<Small<bfloat16>>(), wgrad_row<Scalar<bfloat16>>()});
  return table;
}

}  // namespace

CCONVNET_FPROP(local, LocalProblem, fprop_table(), problem)
size_t dgrad_sums_workspace(const LocalProblem& problem) {
  return ceil_div(bias_grad_workspace(pixels_of(problem)), kVectorBytes) * kVectorBytes;
}

CCONVNET_DGRAD(local, LocalProblem, dgrad_table(), problem)
CCONVNET_WGRAD(local, LocalProblem, wgrad_table(), problem)

}  // namespace cconvnet
