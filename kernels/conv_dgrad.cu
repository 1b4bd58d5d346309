// The gradient of a convolution by its input, as an implicit GEMM. Row m of A is the elements of dy that the
// input pixel (n, h, w) has reached; row n of B is one input channel of the filters. A is contiguous along k,
// whose innermost part is the output channel; B is contiguous along n.
//
// Through tap (r, s), pixel (h, w) reads dy at p = (h + pad_h - r*dilation_h) / stride_h, if that is an
// integer. So with a stride, the pixels fall into stride_h * stride_w residue classes that each use their own
// taps and no others. Each class is a matrix product of its own, without any multiplication by zero:
//   h = first + stride*i,  r = tap + step*j,  p = base + i - back*j,
// where with d = gcd(stride, dilation) step is stride / d and back is dilation / d. tap is the smallest r for
// which (first + pad - r*dilation) / stride is an integer, and base that quotient. It exists if d divides
// first + pad; a class without taps gives zeros. Without dilation step is stride, and back 1. One block
// computes a tile of one class's pixels times input channels of one group; gemm_tile.cuh describes how its
// threads share it.
#include <numeric>

#include "gemm/implicit_gemm.cuh"

namespace cconvnet {
namespace {

// The taps of a class along one axis.
struct TapSteps {
  int common;  // gcd(stride, dilation)
  int step, back;
  int inverse;  // of `back`, modulo `step`

  static TapSteps make(int stride, int dilation) {
    const int common = std::gcd(stride, dilation);
    const int step = stride / common, back = dilation / common;
    // Euclid's algorithm. Modulo step, number is always back * factor, and rest is back * other.
    int64_t number = back % step, rest = step, factor = 1, other = 0;
    while (number > 1) {
      const int64_t quotient = rest / number;
      std::swap(number, rest -= quotient * number);
      std::swap(factor, other -= quotient * factor);
    }
    return {common, step, back, static_cast<int>((factor % step + step) % step)};
  }

  // The first tap of a class, `offset` being its first + pad, and kNone if there is none.
  static constexpr int kNone = -1;
  __device__ __forceinline__ int first_tap(int offset) const {
    if (common == 1 && back == 1) return offset % step;  // undilated; 64 bits take a GPU long
    if (offset % common != 0) return kNone;
    return static_cast<int>(int64_t{offset / common % step} * inverse % step);
  }
};

struct DgradParameters {
  ConvProblem problem;
  int c_per_group, k_per_group;
  GemmSize size;  // of the largest class
  GemmGrid grid;
  uint32_t classes_w;
  TapSteps taps_h, taps_w;
  // How far apart in w two neighbouring taps of a class are, down and right, and two output channels.
  int w_down, w_right, w_channel;
  Divider by_k;
  int max_taps_w;
  Divider by_max_taps_w, by_min_taps_w;  // a class has S/step taps along w, rounded up or down, or none
};

template <class T>
struct DgradPointers {
  const T *dy, *w;
  Destination<InputGradientOutput<T>> destination;
};

// A residue class along one axis.
struct Residue {
  int first, pixels;
  int tap, taps;
  int base;

  static __device__ __forceinline__ Residue make(int first, int size, int stride, int pad, int filter,
                                                 int dilation, const TapSteps& steps) {
    const int pixels = (size - first + stride - 1) / stride, tap = steps.first_tap(first + pad);
    if (tap == TapSteps::kNone || tap >= filter) return {first, pixels, 0, 0, 0};
    return {first, pixels, tap, (filter - tap + steps.step - 1) / steps.step,
            (first + pad - tap * dilation) / stride};
  }
};

// The smallest index of a class is that of its first pixel, so there are no more classes than pixels.
int classes_h(const ConvProblem& problem) {
  return std::min(problem.stride_h, problem.h);
}
int classes_w(const ConvProblem& problem) {
  return std::min(problem.stride_w, problem.w);
}

GemmSize dgrad_size(const ConvProblem& problem) {
  const auto share = [](int size, int stride) { return static_cast<int>(ceil_div(size, stride)); };
  return {problem.n * share(problem.h, problem.stride_h) * share(problem.w, problem.stride_w),
          problem.c_per_group(),
          share(problem.r, TapSteps::make(problem.stride_h, problem.dilation_h).step) *
              share(problem.s, TapSteps::make(problem.stride_w, problem.dilation_w).step) *
              problem.k_per_group(),
          problem.groups * classes_h(problem) * classes_w(problem), problem.precision};
}

// ---- operands -------------------------------------------------------------------------------------------

// One class's matrix product in one group: a block's view of the problem. In shared memory, as GemmBlock.
struct DgradClass {
  Residue h, w;
  uint32_t first_input, first_output;  // channels
  uint32_t first_weight;               // of the first tap and output channel
  int gemm_m, gemm_k;
  DigitStep step_a, step_b;  // along k
  Divider by_taps_w;

  // Sets up the block's one DgradClass, given the k between a thread's depths of A and of B.
  static __device__ __forceinline__ const DgradClass& shared(const DgradParameters& args, uint32_t batch,
                                                             int step_a, int step_b) {
    auto& view = shared_memory<DgradClass>();
    if (threadIdx.x == 0) view = make(args, batch, step_a, step_b);
    __syncthreads();
    return view;
  }

  static __device__ __forceinline__ DgradClass make(const DgradParameters& args, uint32_t batch, int step_a,
                                                    int step_b) {
    const ConvProblem& problem = args.problem;
    const uint32_t residue = batch / problem.groups, group = batch % problem.groups;
    const Residue h = Residue::make(residue / args.classes_w, problem.h, problem.stride_h, problem.pad_h,
                                    problem.r, problem.dilation_h, args.taps_h);
    const Residue w = Residue::make(residue % args.classes_w, problem.w, problem.stride_w, problem.pad_w,
                                    problem.s, problem.dilation_w, args.taps_w);
    return {h,
            w,
            group * args.c_per_group,
            group * args.k_per_group,
            ((group * args.k_per_group * problem.r + h.tap) * problem.s + w.tap) * args.size.n,
            problem.n * h.pixels * w.pixels,
            h.taps * w.taps * args.k_per_group,
            DigitStep::make(step_a, args.k_per_group, max(w.taps, 1)),
            DigitStep::make(step_b, args.k_per_group, max(w.taps, 1)),
            w.taps == args.max_taps_w ? args.by_max_taps_w : args.by_min_taps_w};
  }

  // Divides a row index into image and position within the class.
  __device__ __forceinline__ uint32_t pixel(int m, int& i, int& j) const {
    j = m % w.pixels;
    i = m / w.pixels % h.pixels;
    return m / w.pixels / h.pixels;
  }

  // Divides k into the class's tap (i, j) and the output channel: {channel, j, i}.
  __device__ __forceinline__ Digits tap(const DgradParameters& args, int k) const {
    int j, channel;
    const uint32_t i = by_taps_w.divide(args.by_k.divide(k, channel), j);
    return {static_cast<uint32_t>(channel), static_cast<uint32_t>(j), i};
  }
};

// A: dy at the output pixel whose window's tap (r, s) lies on input pixel (n, h, w).
template <class T>
struct Reached {
  static constexpr bool ALONG_K = true;
  struct RowPart {
    uint32_t p, q;  // the output pixel of the class's first tap
    uint32_t offset;
  };
  struct DepthPart {
    uint32_t p, q;  // how many pixels up and left of that
    uint32_t offset;
  };
  using Place = Digits;

  const DgradParameters& args;
  const DgradClass& view;
  const T* data;

  __device__ __forceinline__ RowPart row(uint32_t m) const {
    // A row beyond the last has no output pixel: the difference of both p stays far above any height.
    if (m >= static_cast<uint32_t>(view.gemm_m)) return {1u << 31, 0, 0};
    const ConvProblem& problem = args.problem;
    int i, j;
    const uint32_t n = view.pixel(m, i, j);
    const uint32_t p = view.h.base + i, q = view.w.base + j;
    return {p, q, ((n * problem.p + p) * problem.q + q) * problem.k + view.first_output};
  }

  __device__ __forceinline__ Place place(uint32_t k) const { return view.tap(args, k); }
  __device__ __forceinline__ void advance(Place& place, uint32_t) const { view.step_a.advance(place); }

  __device__ __forceinline__ DepthPart depth(const Place& place) const {
    const uint32_t p = place.outer * args.taps_h.back, q = place.middle * args.taps_w.back;
    return {p, q, (p * args.problem.q + q) * args.problem.k - place.inner};
  }
  __device__ __forceinline__ DepthPart depth(uint32_t k) const {
    DepthPart part = depth(place(k));
    // Likewise beyond the last k: the difference of both q stays above any width.
    if (k >= static_cast<uint32_t>(view.gemm_k)) part.q = 1u << 31;
    return part;
  }

  __device__ __forceinline__ Location locate(const RowPart& row, const DepthPart& depth) const {
    const bool inside = (row.p - depth.p < static_cast<uint32_t>(args.problem.p)) &
                        (row.q - depth.q < static_cast<uint32_t>(args.problem.q));
    return {row.offset - depth.offset, inside};
  }
};

// B: the filters' weights of tap (r, s) and output channel k, contiguous along the input channel.
template <class T>
struct Weights {
  static constexpr bool ALONG_K = false;
  using RowPart = uint32_t;
  using DepthPart = uint32_t;
  using Place = Digits;

  const DgradParameters& args;
  const DgradClass& view;
  const T* data;

  __device__ __forceinline__ RowPart row(uint32_t n) const {
    return n < static_cast<uint32_t>(args.size.n) ? n : kOutside;
  }

  __device__ __forceinline__ Place place(uint32_t k) const { return view.tap(args, k); }
  __device__ __forceinline__ void advance(Place& place, uint32_t) const { view.step_b.advance(place); }

  __device__ __forceinline__ DepthPart depth(const Place& place) const {
    return view.first_weight + place.outer * args.w_down + place.middle * args.w_right +
           place.inner * args.w_channel;
  }
  __device__ __forceinline__ DepthPart depth(uint32_t k) const {
    const DepthPart offset = depth(place(k));
    return k < static_cast<uint32_t>(view.gemm_k) ? offset : kOutside;
  }

  __device__ __forceinline__ Location locate(RowPart row, DepthPart depth) const {
    const bool inside = (row != kOutside) & (depth != kOutside);
    return {row + depth, inside};
  }
};

struct DgradOutput {
  const DgradParameters& args;
  const DgradClass& view;
  __device__ __forceinline__ uint32_t row(uint32_t m) const {
    const ConvProblem& problem = args.problem;
    int i, j;
    const uint32_t n = view.pixel(m, i, j);
    const uint32_t h = view.h.first + i * problem.stride_h, w = view.w.first + j * problem.stride_w;
    return ((n * problem.h + h) * problem.w + w) * problem.c + view.first_input;
  }
  __device__ __forceinline__ uint32_t sums(uint32_t m, uint32_t channel) const {
    return m < static_cast<uint32_t>(args.size.m) ? m / kSumRows * args.problem.c + channel : kOutside;
  }
};

// ---- the sums of an epilogue ----------------------------------------------------------------------------

// A product that was split along k, as a matrix of floats that is summed. dx may have another type.
template <class T>
struct SplitSums {
  static constexpr int BATCH = 1;
  int count, splits;
  const float* partials;

  template <int WIDTH>
  using Fetched = Vector<WIDTH>;

  bool aligned() const { return cconvnet::aligned(partials) && count % kVectorWidth<float> == 0; }

  template <int WIDTH>
  __device__ __forceinline__ Vector<WIDTH> fetch(int i) const {
    return load<WIDTH>(partials + i);
  }

  template <int WIDTH>
  __device__ __forceinline__ Vector<WIDTH> term(int i, Vector<WIDTH> sum) const {
#pragma unroll 4
    for (int split = 1; split < splits; ++split) {
      add_to(sum, load<WIDTH>(partials + int64_t{split} * count + i));
    }
    return rounded_to<T>(sum);
  }
};

// ---- kernel and launcher --------------------------------------------------------------------------------

template <class Tile, class T = typename Tile::Element>
__global__ void __launch_bounds__(Tile::THREADS, Tile::MIN_BLOCKS)
    conv_dgrad_implicit_gemm(DgradParameters args, DgradPointers<T> arrays) {
  const GemmBlock& block = GemmBlock::shared<Tile>(args.grid);
  std::conditional_t<Tile::SPARES_REGISTERS, const DgradClass, const DgradClass&> view =
      DgradClass::shared(args, block.batch, kDepthStep<Tile, Tile::BLOCK_M, Reached<T>>,
                         kDepthStep<Tile, Tile::BLOCK_N, Weights<T>>);
  if (block.m >= static_cast<uint32_t>(view.gemm_m)) return;  // the grid is made for the largest class
  const auto product = multiply<Tile>(Reached<T>{args, view, arrays.dy}, Weights<T>{args, view, arrays.w},
                                      block, view.gemm_k, args.grid);
  arrays.destination.store(product, block, DgradOutput{args, view}, view.first_input, view.gemm_m,
                           args.size.n);
}

template <class Tile>
void launch(const ConvProblem& problem, const DgradArguments& args, Stream stream) {
  using T = typename Tile::Element;
  const GemmSize size = dgrad_size(problem);
  const GemmGrid grid = GemmGrid::make<Tile>(size);
  T* const dx = static_cast<T*>(args.dx);
  const TapSteps taps_h = TapSteps::make(problem.stride_h, problem.dilation_h);
  const TapSteps taps_w = TapSteps::make(problem.stride_w, problem.dilation_w);
  const int max_taps_w = static_cast<int>(ceil_div(problem.s, taps_w.step));
  const DgradParameters parameters = {problem,
                                      problem.c_per_group(),
                                      problem.k_per_group(),
                                      size,
                                      grid,
                                      static_cast<uint32_t>(classes_w(problem)),
                                      taps_h,
                                      taps_w,
                                      taps_h.step * problem.s * size.n,
                                      taps_w.step * size.n,
                                      problem.r * problem.s * size.n,
                                      Divider(problem.k_per_group()),
                                      max_taps_w,
                                      Divider(max_taps_w),
                                      Divider(std::max(1, problem.s / taps_w.step))};
  float* const db = args.epilogue.db;
  const bool one_class = classes_h(problem) * classes_w(problem) == 1;
  float* const sums =
      db && Tile::TENSOR && one_class && grid.splits == 1 ? static_cast<float*>(args.sums) : nullptr;
  const DgradPointers<T> pointers = {static_cast<const T*>(args.dy),
                                     static_cast<const T*>(args.w),
                                     {{args.epilogue, dx, whole_groups(size.n, dx, args.workspace), sums},
                                      problem.x_count(),
                                      grid,
                                      args.workspace}};
  CCONVNET_LAUNCH_SHARED((conv_dgrad_implicit_gemm<Tile>), grid.blocks(), Tile::THREADS, Tile::LAUNCH_BYTES,
                         stream, parameters, pointers);
  if (sums) {
    // There is one class, so that neighbouring rows are neighbouring pixels.
    const BiasProblem groups = groups_of_rows(pixels_of(problem));
    sum_columns_of<float>(groups, Values<float>{sums}, db, sums + groups.count(), stream);
  } else if (db && grid.splits > 1) {
    const SplitSums<T> split = {problem.x_count(), static_cast<int>(grid.splits),
                                static_cast<const float*>(args.workspace)};
    sum_columns_of<float>(pixels_of(problem), InputGradients<T, SplitSums<T>>(split, args.epilogue, dx), db,
                          args.sums, stream);
  } else {
    pointers.destination.reduce(grid, problem.c, stream);
    if (db) bias_grad(pixels_of(problem), dx, db, args.sums, stream);
  }
}

// ---- selection ------------------------------------------------------------------------------------------

size_t workspace(const ConvProblem& problem) {
  return split_workspace(dgrad_size(problem), problem.x_count());
}

template <class Tile>
DgradTable::Row row() {
  return {"conv_dgrad_implicit_gemm_" + Tile::name(), Tile::WHOLE > 1,
          // Neighbouring k must be channels of one tap, and so must neighbouring n.
          [](const ConvProblem& problem) {
            return Tile::multiplies(problem.precision) && problem.k_per_group() % Tile::WHOLE == 0 &&
                   problem.c_per_group() % Tile::WHOLE == 0;
          },
          always, workspace, launch<Tile>,
          [](const ConvProblem& problem) { return predicted_cycles<Tile>(dgrad_size(problem)); }};
}

template <class T, int... SIZES>
DgradTable::Row tensor_row() {
  return row<TensorTile<T, SIZES...>>();
}
template <int... SIZES>
DgradTable::Row fp32x3_row() {
  return row<SplitTensorTile<SIZES...>>();
}
template <int... SIZES>
DgradTable::Row fp32_row() {
  return row<Tile<float, SIZES...>>();
}
template <int... SIZES>
DgradTable::Row bf16_row() {
  return row<Tile<bfloat16, SIZES...>>();
}

}  // namespace

const DgradTable& conv_dgrad_table() {
  static const DgradTable table(
      "conv_dgrad",
      {// A side of 48 is for AlexNet's second layer, one of 96 for those after it. Steps of 32 leave registers
       // for the rows of dy: 192 x 96 x 64 spills. 256 x 64 is for 64 channels, as in the forward pass.
       tensor_row<bfloat16, 128, 128, 64, 64, 64, 3>(), tensor_row<bfloat16, 192, 96, 32, 96, 48, 4>(),
       tensor_row<bfloat16, 128, 96, 64, 64, 48, 3>(), tensor_row<bfloat16, 256, 48, 64, 64, 48, 2>(),
       tensor_row<bfloat16, 256, 64, 64, 64, 64, 2>(), tensor_row<bfloat16, 128, 64, 64, 64, 32, 3>(),
       tensor_row<bfloat16, 64, 64, 64, 32, 32, 3>(), tensor_row<float, 128, 128, 32, 64, 64, 3>(),
       tensor_row<float, 128, 96, 32, 64, 48, 3>(), tensor_row<float, 256, 48, 32, 64, 48, 2>(),
       tensor_row<float, 256, 64, 32, 64, 64, 2>(), tensor_row<float, 128, 64, 32, 64, 32, 3>(),
       tensor_row<float, 64, 64, 32, 32, 32, 3>(), fp32x3_row<64, 64, 16, 32, 32, 4>(),
       fp32_row<128, 128, 16, 8, 8, 4>(), fp32_row<128, 64, 16, 8, 8, 4>(), fp32_row<64, 64, 16, 8, 4, 4>(),
       fp32_row<128, 32, 16, 8, 4, 4>(), fp32_row<32, 32, 16, 4, 4, 4>(), fp32_row<128, 64, 8, 8, 8, 1>(),
       fp32_row<128, 32, 8, 8, 4, 1>(), fp32_row<32, 32, 8, 4, 4, 1>(),
       // Problems that tensor cores do not support.
       bf16_row<128, 64, 8, 8, 8, 1>(), bf16_row<32, 32, 8, 4, 4, 1>()},
      joined(joined(depthwise_dgrad_rows(), wgmma_dgrad_rows()), halo_dgrad_rows()));
  return table;
}

size_t dgrad_sums_workspace(const ConvProblem& problem) {
  const BiasProblem groups = groups_of_rows(pixels_of(problem));
  const size_t bytes = std::max(bias_grad_workspace(pixels_of(problem)),
                                sizeof(float) * groups.count() + bias_grad_workspace(groups));
  return ceil_div(bytes, kVectorBytes) * kVectorBytes;
}

CCONVNET_DGRAD(conv, ConvProblem, conv_dgrad_table(), problem)

}  // namespace cconvnet
