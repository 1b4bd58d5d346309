// Local response normalisation, y = x * d^-beta with d = k + alpha * (sum of x^2 over a window). The gradient
// is dx = dy * d^-beta - 2 alpha beta x * sum of t over the windows that contain x, where t = dy * x *
// d^(-beta-1).
//
// Three kinds of kernels, in the order of the selection table:
// - lrn_across_*: windows of 3, 5, 7 or 9 channels where C / groups is a multiple of 8 and beta is 3/4, as in
//   every published network. A thread owns a vector of channels and needs only a few on either side of it.
//   Backward is one pass: a block computes t for its vectors and one more at either end, and shares it
//   through shared memory.
// - lrn_map: 3x3 or 5x5 windows in the same map where vectors divide C, beta again 3/4. A thread owns a
//   vector of channels of a column of pixels and walks down it. It keeps the sums of SIZE rows, so each step
//   reads one new row of the window.
// - lrn_any: all other problems. A thread owns an element and walks through its window in global memory; the
//   L1 cache serves reads that neighbours share.
// The last two go backward in two launches. The first writes t and dy * d^-beta to the workspace, as floats.
// The second writes dx, the latter minus its factor times the sum of t.
//
// An element whose d is too large for these formulas is NaN at first, and is then recomputed by
// lrn_extremes.h.
//
// Every window is summed by itself. A running sum that adds the entering element and subtracts the leaving
// one would be cheaper for wide windows, but its rounding errors grow with the distance walked.
#include "core/select.h"
#include "lrn.cuh"

namespace cconvnet {
namespace {

// ---- across channels, small windows ---------------------------------------------------------------------

template <int SIZE, bool ALIGNED, class T>
__global__ void __launch_bounds__(kThreads) lrn_across_forward(LrnArguments args, const T* x, T* y) {
  constexpr int WIDTH = kVectorWidth<T>;
  const int vector = blockIdx.x * kThreads + threadIdx.x;
  if (vector >= args.vectors) return;
  const LrnSides sides = LrnSides::of(args, vector);
  Vector<WIDTH> value = load_from<WIDTH, ALIGNED>(x + vector * WIDTH);
  const Vector<WIDTH> sums = lrn_squares<SIZE, ALIGNED>(x + vector * WIDTH, sides, value);
  const LrnScales<WIDTH> scales = args.usual_scales<SIZE>(sums);
#pragma unroll
  for (int i = 0; i < WIDTH; ++i) value.lane[i] *= scales.lane[i].power;
  store_to<ALIGNED>(y + vector * WIDTH, value);
  if (scales.extreme) lrn_recompute_y(args.problem, x, vector * WIDTH, WIDTH, y + vector * WIDTH);
}

constexpr int kInnerThreads = kThreads - 2;  // the first and the last thread only compute t for the others

template <int WIDTH>
struct LrnAcrossShared {
  Vector<WIDTH> t[kThreads];
};

template <int SIZE, bool ALIGNED, class T>
__global__ void __launch_bounds__(kThreads)
    lrn_across_backward(LrnArguments args, const T* x, const T* dy, T* dx) {
  constexpr int WIDTH = kVectorWidth<T>;
  auto& shared = shared_memory<LrnAcrossShared<WIDTH>>();
  const int thread = threadIdx.x;
  const int vector = static_cast<int>(blockIdx.x) * kInnerThreads + thread - 1;
  const bool exists = vector >= 0 && vector < args.vectors;
  const LrnSides sides = LrnSides::of(args, exists ? vector : 0);
  Vector<WIDTH> value, part, t = zeros<WIDTH>();
  if (exists) {
    value = load_from<WIDTH, ALIGNED>(x + vector * WIDTH);
    const Vector<WIDTH> gradient = load_from<WIDTH, ALIGNED>(dy + vector * WIDTH);
    const Vector<WIDTH> squares = lrn_squares<SIZE, ALIGNED>(x + vector * WIDTH, sides, value);
    const LrnScales<WIDTH> scales = args.usual_scales<SIZE>(squares);
#pragma unroll
    for (int i = 0; i < WIDTH; ++i) {
      part.lane[i] = gradient.lane[i] * scales.lane[i].power;
      t.lane[i] = lrn_t(value.lane[i], part.lane[i], scales.lane[i]);
    }
  }
  shared.t[thread] = t;
  __syncthreads();
  if (!exists || thread == 0 || thread == kThreads - 1) return;

  LrnNeighbourhood<WIDTH> ts = {zeros<kLrnReach>(), t, zeros<kLrnReach>()};
  if (sides.before) ts.before = load<kLrnReach>(shared.t[thread - 1].lane + WIDTH - kLrnReach);
  if (sides.after) ts.after = load<kLrnReach>(shared.t[thread + 1].lane);
  // SIZE is odd: the windows that contain channel c are those of the channels in its own.
  const Vector<WIDTH> sums = lrn_sums<SIZE>(ts);
#pragma unroll
  for (int i = 0; i < WIDTH; ++i) {
    part.lane[i] = lrn_dx(args, part.lane[i], value.lane[i], sums.lane[i]);
  }
  store_to<ALIGNED>(dx + vector * WIDTH, part);
  if (lrn_has_nan(part)) lrn_recompute_dx(args.problem, x, dy, vector * WIDTH, WIDTH, dx + vector * WIDTH);
}

// ---- the steps of the same-map and the any-window kernels -----------------------------------------------

// forward   sums x^2 and writes y
// terms     sums x^2 and writes t and the first part of dx
// gradient  sums t and writes dx
enum class Step { forward, terms, gradient };

template <class T>
struct LrnArrays {
  const T* x;
  const T* dy;
  float* t;  // in the workspace, and so is `part`
  float* part;
  T* out;  // y or dx
  void* workspace;
  bool aligned() const { return cconvnet::aligned(x, dy, t, part, out); }
};

// Computes and writes the outputs of WIDTH elements side by side, from `offset` on, from the sums of their
// windows.
template <Step STEP, int WIDTH, class T>
__device__ __forceinline__ void write_outputs(const LrnArguments& args, const LrnArrays<T>& arrays,
                                              int offset, const Vector<WIDTH>& sum) {
  const Vector<WIDTH> x = load<WIDTH>(arrays.x + offset);
  if constexpr (STEP == Step::gradient) {
    Vector<WIDTH> out = load<WIDTH>(arrays.part + offset);
#pragma unroll
    for (int i = 0; i < WIDTH; ++i) out.lane[i] = lrn_dx(args, out.lane[i], x.lane[i], sum.lane[i]);
    store(arrays.out + offset, out);
    if (lrn_has_nan(out))
      lrn_recompute_dx(args.problem, arrays.x, arrays.dy, offset, WIDTH, arrays.out + offset);
  } else {
    Vector<WIDTH> dy = zeros<WIDTH>(), t, out;
    if (STEP == Step::terms) dy = load<WIDTH>(arrays.dy + offset);
    LrnScales<WIDTH> scales;
    if constexpr (WIDTH > 1) {
      scales = args.usual_scales<1>(sum);
    } else {
      scales = {{args.scale(sum.lane[0])}, true};
    }
#pragma unroll
    for (int i = 0; i < WIDTH; ++i) {
      out.lane[i] = (STEP == Step::forward ? x.lane[i] : dy.lane[i]) * scales.lane[i].power;
      t.lane[i] = lrn_t(x.lane[i], out.lane[i], scales.lane[i]);
    }
    if constexpr (STEP == Step::forward) {
      store(arrays.out + offset, out);
      if (scales.extreme && lrn_has_nan(out))
        lrn_recompute_y(args.problem, arrays.x, offset, WIDTH, arrays.out + offset);
    } else {
      store(arrays.t + offset, t);
      store(arrays.part + offset, out);
    }
  }
}

// ---- same map, small windows ----------------------------------------------------------------------------

constexpr int kStripRows = 16;    // at most; a long walk reads few rows twice, a short one gives more threads
constexpr int kMaxGridY = 65535;  // CUDA's limit

// The sums of a window's rows, oldest first.
template <int SIZE, int WIDTH>
struct WindowRows {
  Vector<WIDTH> row[SIZE];

  __device__ __forceinline__ void push(const Vector<WIDTH>& newest) {
#pragma unroll
    for (int r = 0; r + 1 < SIZE; ++r) row[r] = row[r + 1];
    row[SIZE - 1] = newest;
  }

  __device__ __forceinline__ Vector<WIDTH> sum() const {
    Vector<WIDTH> result = row[0];
#pragma unroll
    for (int r = 1; r < SIZE; ++r) add_to(result, row[r]);
    return result;
  }
};

// The sum over one row of the window around column w, `offset` being the element there.
template <int SIZE, bool SQUARED, int WIDTH, class T>
__device__ __forceinline__ Vector<WIDTH> row_sum(const LrnProblem& problem, const T* values, int offset,
                                                 int w) {
  Vector<WIDTH> sum = zeros<WIDTH>();
#pragma unroll
  for (int s = -(SIZE / 2); s <= SIZE / 2; ++s) {
    if (w + s >= 0 && w + s < problem.w) {
      const Vector<WIDTH> value = load<WIDTH>(values + offset + s * problem.c);
#pragma unroll
      for (int i = 0; i < WIDTH; ++i) {
        sum.lane[i] = SQUARED ? fmaf(value.lane[i], value.lane[i], sum.lane[i]) : sum.lane[i] + value.lane[i];
      }
    }
  }
  return sum;
}

// blockIdx.y is the strip of `strip_rows` rows; the threads run over channels, columns and images. Without
// the 1, nvcc spills registers rather than fit fewer blocks.
template <Step STEP, int SIZE, class T>
__global__ void __launch_bounds__(kThreads, 1)
    lrn_map(LrnArguments args, int strip_rows, LrnArrays<T> arrays) {
  static_assert(SIZE % 2 == 1, "the windows that contain a pixel are those of the pixels in its own window");
  constexpr int WIDTH = kVectorWidth<T>;
  constexpr int kHalf = SIZE / 2;
  const LrnProblem& problem = args.problem;
  const int thread = blockIdx.x * kThreads + threadIdx.x;
  int c, w;
  const int n = args.w_div.divide(args.c_div.divide(thread, c), w);
  if (n >= problem.n) return;
  const int begin = blockIdx.y * strip_rows;
  const int end = min(begin + strip_rows, problem.h);
  const int image_row = problem.w * problem.c;

  WindowRows<SIZE, WIDTH> rows;
  int newest = begin - kHalf;
  int offset = (n * problem.h + newest) * image_row + w * problem.c + c * WIDTH;  // of its element
  for (; newest < end + kHalf; ++newest, offset += image_row) {
    Vector<WIDTH> sum = zeros<WIDTH>();
    if (newest >= 0 && newest < problem.h) {
      if constexpr (STEP == Step::gradient) {
        sum = row_sum<SIZE, false, WIDTH>(problem, arrays.t, offset, w);
      } else {
        sum = row_sum<SIZE, true, WIDTH>(problem, arrays.x, offset, w);
      }
    }
    rows.push(sum);
    if (newest < begin + kHalf) continue;  // the first rows only fill the window
    write_outputs<STEP>(args, arrays, offset - kHalf * image_row, rows.sum());
  }
}

// ---- any window -----------------------------------------------------------------------------------------

// The pixels and channels of one window, in the image of the element it belongs to.
struct Box {
  int image;  // offset of the image's first element
  int h_begin, h_end, w_begin, w_end, c_begin, c_end;
};

// The window of an element or, transposed, the elements whose windows contain it.
__device__ __forceinline__ Box box_of(const LrnArguments& args, int element, bool transposed) {
  const LrnProblem& problem = args.problem;
  int c, w, h;
  int pixel = args.c_div.divide(element, c);
  pixel = args.w_div.divide(pixel, w);
  const int n = args.h_div.divide(pixel, h);
  Box box{n * problem.h * problem.w * problem.c, h, h + 1, w, w + 1, c, c + 1};
  if (problem.region == LrnRegion::same_map) {
    const int half = problem.size / 2, other_half = problem.size - 1 - half;
    const int left = transposed ? other_half : half;
    const int right = transposed ? half : other_half;
    box.h_begin = max(h - left, 0);
    box.h_end = min(h + right + 1, problem.h);
    box.w_begin = max(w - left, 0);
    box.w_end = min(w + right + 1, problem.w);
  } else {
    const LrnChannels channels = LrnChannels::around(args, c, transposed);
    box.c_begin = channels.begin;
    box.c_end = channels.end;
  }
  return box;
}

// The sum of values, or of their squares, over the box.
template <bool SQUARED, class T>
__device__ __forceinline__ float box_sum(const LrnArguments& args, const Box& box, const T* values) {
  float sum = 0.0f;
  for (int h = box.h_begin; h < box.h_end; ++h) {
    for (int w = box.w_begin; w < box.w_end; ++w) {
      const T* pixel = values + box.image + (h * args.problem.w + w) * args.problem.c;
      for (int c = box.c_begin; c < box.c_end; ++c) {
        const float value = to_float(pixel[c]);
        sum = SQUARED ? fmaf(value, value, sum) : sum + value;
      }
    }
  }
  return sum;
}

template <Step STEP, class T>
__global__ void __launch_bounds__(kThreads) lrn_any(LrnArguments args, LrnArrays<T> arrays) {
  const int64_t thread = int64_t{blockIdx.x} * kThreads + threadIdx.x;
  if (thread >= args.vectors) return;
  const int element = static_cast<int>(thread);
  const Box box = box_of(args, element, STEP == Step::gradient);
  const float sum =
      STEP == Step::gradient ? box_sum<false>(args, box, arrays.t) : box_sum<true>(args, box, arrays.x);
  write_outputs<STEP>(args, arrays, element, Vector<1>{{sum}});
}

// ---- launchers ------------------------------------------------------------------------------------------

template <int SIZE, bool ALIGNED, class T>
void launch_across(const LrnProblem& problem, const T* x, const T* dy, T* out, Stream stream) {
  const LrnArguments args(problem, kVectorWidth<T>);
  if (!dy) {
    const dim3 grid(static_cast<unsigned>(ceil_div(args.vectors, kThreads)));
    CCONVNET_LAUNCH((lrn_across_forward<SIZE, ALIGNED, T>), grid, kThreads, stream, args, x, out);
  } else {
    const dim3 grid(static_cast<unsigned>(ceil_div(args.vectors, kInnerThreads)));
    CCONVNET_LAUNCH((lrn_across_backward<SIZE, ALIGNED, T>), grid, kThreads, stream, args, x, dy, out);
  }
}

// Forward where dy is null, else backward.
template <class T>
void launch_across(const LrnProblem& problem, const LrnArrays<T>& arrays, Stream stream) {
  dispatch_lrn_size(problem.size, [&](auto size) {
    if (aligned(arrays.x, arrays.dy, arrays.out)) {
      launch_across<decltype(size)::value, true>(problem, arrays.x, arrays.dy, arrays.out, stream);
    } else {
      launch_across<decltype(size)::value, false>(problem, arrays.x, arrays.dy, arrays.out, stream);
    }
  });
}

template <Step STEP, class T>
void launch_map(const LrnProblem& problem, const LrnArrays<T>& arrays, Stream stream) {
  const LrnArguments args(problem, kVectorWidth<T>);
  const int64_t strips = std::min<int64_t>(ceil_div(problem.h, kStripRows), kMaxGridY);
  const int strip_rows = static_cast<int>(ceil_div(problem.h, strips));
  const dim3 grid(static_cast<unsigned>(ceil_div(int64_t{args.vectors / problem.h}, kThreads)),
                  static_cast<unsigned>(ceil_div(problem.h, strip_rows)));
  if (problem.size == 3) {
    CCONVNET_LAUNCH((lrn_map<STEP, 3, T>), grid, kThreads, stream, args, strip_rows, arrays);
  } else {
    CCONVNET_LAUNCH((lrn_map<STEP, 5, T>), grid, kThreads, stream, args, strip_rows, arrays);
  }
}

template <Step STEP, class T>
void launch_any(const LrnProblem& problem, const LrnArrays<T>& arrays, Stream stream) {
  const LrnArguments args(problem, 1);
  const dim3 grid(static_cast<unsigned>(ceil_div(args.vectors, kThreads)));
  CCONVNET_LAUNCH((lrn_any<STEP, T>), grid, kThreads, stream, args, arrays);
}

template <class T>
void launch_map_backward(const LrnProblem& problem, const LrnArrays<T>& arrays, Stream stream) {
  launch_map<Step::terms>(problem, arrays, stream);
  launch_map<Step::gradient>(problem, arrays, stream);
}

template <class T>
void launch_any_backward(const LrnProblem& problem, const LrnArrays<T>& arrays, Stream stream) {
  launch_any<Step::terms>(problem, arrays, stream);
  launch_any<Step::gradient>(problem, arrays, stream);
}

// ---- selection ------------------------------------------------------------------------------------------

template <class T>
using LrnTable = SelectionTable<LrnProblem, LrnArrays<T>>;

template <class T>
bool small_window_in_map(const LrnProblem& problem) {
  return problem.region == LrnRegion::same_map && (problem.size == 3 || problem.size == 5) &&
         problem.beta == kLrnUsualBeta && problem.c % kVectorWidth<T> == 0;
}

size_t two_maps(const LrnProblem& problem) {
  return 2 * sizeof(float) * problem.count();  // t and part
}

template <class T>
const LrnTable<T>& forward_table() {
  static const std::string type = kElementName<T>;
  static const LrnTable<T> table(
      "lrn_forward",
      {{"lrn_forward_across_" + type, false, lrn_small_window, always, no_workspace, launch_across<T>},
       {"lrn_forward_map_" + type, true, small_window_in_map<T>, always, no_workspace,
        launch_map<Step::forward, T>},
       {"lrn_forward_any_" + type, false, always, always, no_workspace, launch_any<Step::forward, T>}});
  return table;
}

template <class T>
const LrnTable<T>& backward_table() {
  static const std::string type = kElementName<T>;
  static const LrnTable<T> table(
      "lrn_backward",
      {{"lrn_backward_across_" + type, false, lrn_small_window, always, no_workspace, launch_across<T>},
       {"lrn_backward_map_" + type, true, small_window_in_map<T>, always, two_maps, launch_map_backward<T>},
       {"lrn_backward_any_" + type, false, always, always, two_maps, launch_any_backward<T>}});
  return table;
}

}  // namespace

template <class T>
void lrn_forward(const LrnProblem& problem, const T* x, T* y, Stream stream) {
  forward_table<T>().run(problem, {x, nullptr, nullptr, nullptr, y, nullptr}, stream, nullptr);
}

size_t lrn_backward_workspace(const LrnProblem& problem) {
  return backward_table<float>().workspace(problem, nullptr);
}

template <class T>
void lrn_backward(const LrnProblem& problem, const T* x, const T* dy, T* dx, void* workspace, Stream stream) {
  float* const t = static_cast<float*>(workspace);
  float* const part = t ? t + problem.count() : nullptr;
  backward_table<T>().run(problem, {x, dy, t, part, dx, workspace}, stream, nullptr);
}

template void lrn_forward(const LrnProblem&, const float*, float*, Stream);
template void lrn_forward(const LrnProblem&, const bfloat16*, bfloat16*, Stream);
template void lrn_backward(const LrnProblem&, const float*, const float*, float*, void*, Stream);
template void lrn_backward(const LrnProblem&, const bfloat16*, const bfloat16*, bfloat16*, void*, Stream);

}  // namespace cconvnet
