// Local response normalisation, y = x * d^-beta with d = k + alpha * (sum of x^2 over a window).
// The gradient is dx = dy * d^-beta - 2 alpha beta x * sum of t over the windows that hold x, where
// t = dy * x * d^(-beta-1).
//
// Three families of kernels, the first that fits serves:
// - lrn_across_*: windows of 3, 5, 7 or 9 channels where C / groups is a multiple of 4, as in every network
// of
//   record. A thread owns a vector of 4 channels and needs only the two vectors beside it. Backward is one
//   pass: a block computes t for its vectors and one more at either end, and hands it on through shared
//   memory.
// - lrn_map: 3x3 or 5x5 windows in the same map where C is a multiple of 4. A thread owns 4 channels of a
// column
//   of pixels and walks down it; it holds the sums of SIZE rows, so each step reads one new row of the
//   window.
// - lrn_any: the rest. A thread owns an element and walks through its window in global memory, where the L1
//   cache serves what neighbours share.
// The last two go backward in two launches: t to the workspace and dy * d^-beta to dx, then dx less the sum
// of t.
//
// Every window is summed by itself. A running sum that adds what enters and takes off what leaves would be
// cheaper for wide windows, but its rounding errors grow with the distance walked.
#include <cfloat>

#include "vector.cuh"

namespace cconvnet {
namespace {

// d^-beta and d^(-beta-1).
struct Scale {
  float power, power_over_d;
};

__device__ __forceinline__ Scale scale_of(float d, float beta) {
  float power;
  if (beta == 0.75f) {
    // Every network of record: d^(-1/2) * (d^(1/2))^(-1/2), two roots instead of a logarithm and an
    // exponential. The first root's error enters twice, with opposite signs, and half of it cancels. Where
    // x^2 overflows, d is kept finite so that d * d^(-1/2) is a number; a NaN passes.
    d = d > FLT_MAX ? FLT_MAX : d;
    const float root = rsqrtf(d);
    power = root * rsqrtf(d * root);
  } else {
    power = powf(d, -beta);
  }
  return {power, __fdividef(power, d)};
}

struct LrnArguments {
  LrnProblem problem;
  float gradient_factor;                   // 2 alpha beta
  int vectors;                             // of the whole tensor
  Divider c_div, group_div, w_div, h_div;  // by the vectors of a pixel and of a group, by W and H
};

// ---- across channels, small windows ---------------------------------------------------------------------

// What a window sees from a vector: the vectors before it and after it in its group, zero where there is
// none.
struct Neighbourhood {
  Vector<4> before, own, after;
};

// Each window's sum; the window of channel c is [c - LEFT, c + RIGHT].
template <int LEFT, int RIGHT>
__device__ __forceinline__ Vector<4> window_sums(const Neighbourhood& values) {
  static_assert(LEFT <= 4 && RIGHT <= 4, "a window reaches no further than the neighbouring vectors");
  float row[12];
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    row[i] = values.before.lane[i];
    row[4 + i] = values.own.lane[i];
    row[8 + i] = values.after.lane[i];
  }
  Vector<4> sums = zeros<4>();
#pragma unroll
  for (int i = 0; i < 4; ++i) {
#pragma unroll
    for (int j = 4 + i - LEFT; j <= 4 + i + RIGHT; ++j) sums.lane[i] += row[j];
  }
  return sums;
}

__device__ __forceinline__ Vector<4> squares(const Vector<4>& v) {
  return {{v.lane[0] * v.lane[0], v.lane[1] * v.lane[1], v.lane[2] * v.lane[2], v.lane[3] * v.lane[3]}};
}

// Four floats at any address, or where ALIGNED at once.
template <bool ALIGNED>
__device__ __forceinline__ Vector<4> load4(const float* address) {
  if (ALIGNED) return load<4>(address);
  return {{address[0], address[1], address[2], address[3]}};
}

template <bool ALIGNED>
__device__ __forceinline__ void store4(float* address, const Vector<4>& value) {
  if (ALIGNED) {
    store(address, value);
  } else {
#pragma unroll
    for (int i = 0; i < 4; ++i) address[i] = value.lane[i];
  }
}

// Whether a vector has a neighbour in its group before and after it.
struct Sides {
  bool before, after;

  __device__ Sides(const LrnArguments& a, int vector) {
    int place;
    a.group_div.divide(vector, place);
    before = place > 0;
    after = place + 1 < a.problem.c / a.problem.groups / 4;
  }
};

// d for the four channels of a vector; `own` is x there.
template <int SIZE, bool ALIGNED>
__device__ __forceinline__ Vector<4> denominators(const LrnArguments& a, const float* x, int vector,
                                                  const Sides& sides, const Vector<4>& own) {
  const float* address = x + vector * 4;
  const Vector<4> before = sides.before ? load4<ALIGNED>(address - 4) : zeros<4>();
  const Vector<4> after = sides.after ? load4<ALIGNED>(address + 4) : zeros<4>();
  Vector<4> d = window_sums<SIZE / 2, SIZE - 1 - SIZE / 2>({squares(before), squares(own), squares(after)});
#pragma unroll
  for (int i = 0; i < 4; ++i) d.lane[i] = a.problem.k + a.problem.alpha * d.lane[i];
  return d;
}

template <int SIZE, bool ALIGNED>
__global__ void __launch_bounds__(kThreads) lrn_across_forward(LrnArguments a, const float* x, float* y) {
  const int vector = blockIdx.x * kThreads + threadIdx.x;
  if (vector >= a.vectors) return;
  Vector<4> value = load4<ALIGNED>(x + vector * 4);
  const Vector<4> d = denominators<SIZE, ALIGNED>(a, x, vector, Sides(a, vector), value);
#pragma unroll
  for (int i = 0; i < 4; ++i) value.lane[i] *= scale_of(d.lane[i], a.problem.beta).power;
  store4<ALIGNED>(y + vector * 4, value);
}

constexpr int kInnerThreads = kThreads - 2;  // the first and the last thread only compute t for the others

struct LrnAcrossShared {
  Vector<4> t[kThreads];
};

template <int SIZE, bool ALIGNED>
__global__ void __launch_bounds__(kThreads)
    lrn_across_backward(LrnArguments a, const float* x, const float* dy, float* dx) {
  LrnAcrossShared& shared = shared_memory<LrnAcrossShared>();
  const int thread = threadIdx.x;
  const int vector = static_cast<int>(blockIdx.x) * kInnerThreads + thread - 1;
  const bool exists = vector >= 0 && vector < a.vectors;
  const Sides sides(a, exists ? vector : 0);
  Vector<4> value, gradient, own_part, t = zeros<4>();
  if (exists) {
    value = load4<ALIGNED>(x + vector * 4);
    gradient = load4<ALIGNED>(dy + vector * 4);
    const Vector<4> d = denominators<SIZE, ALIGNED>(a, x, vector, sides, value);
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const Scale scale = scale_of(d.lane[i], a.problem.beta);
      own_part.lane[i] = gradient.lane[i] * scale.power;
      t.lane[i] = gradient.lane[i] * value.lane[i] * scale.power_over_d;
    }
  }
  shared.t[thread] = t;
  __syncthreads();
  if (!exists || thread == 0 || thread == kThreads - 1) return;

  // The windows that hold channel c are those of channels [c - RIGHT, c + LEFT].
  const Vector<4> sums = window_sums<SIZE - 1 - SIZE / 2, SIZE / 2>(
      {sides.before ? shared.t[thread - 1] : zeros<4>(), t, sides.after ? shared.t[thread + 1] : zeros<4>()});
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    gradient.lane[i] = own_part.lane[i] - a.gradient_factor * value.lane[i] * sums.lane[i];
  }
  store4<ALIGNED>(dx + vector * 4, gradient);
}

// ---- the steps of the same-map and the any-window kernels -----------------------------------------------

// forward: sums x^2; y.  begin: sums x^2; t, and in dx its first part.  finish: sums t; dx.
enum class Step { forward, begin, finish };

struct StepArguments {
  const float* x;
  const float* dy;
  float* t;
  float* out;  // y or dx
};

// What is left to do for the element at `offset` when its window's sum is known; WIDTH elements side by side.
template <Step STEP, int WIDTH>
__device__ __forceinline__ void finish_window(const LrnArguments& a, const StepArguments& p, int offset,
                                              const Vector<WIDTH>& sum) {
  const Vector<WIDTH> x = load<WIDTH>(p.x + offset);
  Vector<WIDTH> dy = zeros<WIDTH>(), t, out = zeros<WIDTH>();
  if (STEP == Step::begin) dy = load<WIDTH>(p.dy + offset);
  if (STEP == Step::finish) out = load<WIDTH>(p.out + offset);
#pragma unroll
  for (int i = 0; i < WIDTH; ++i) {
    if (STEP == Step::finish) {
      out.lane[i] -= a.gradient_factor * x.lane[i] * sum.lane[i];
    } else {
      const Scale scale = scale_of(a.problem.k + a.problem.alpha * sum.lane[i], a.problem.beta);
      t.lane[i] = dy.lane[i] * x.lane[i] * scale.power_over_d;
      out.lane[i] = (STEP == Step::forward ? x.lane[i] : dy.lane[i]) * scale.power;
    }
  }
  if (STEP == Step::begin) store(p.t + offset, t);
  store(p.out + offset, out);
}

// ---- same map, small windows ----------------------------------------------------------------------------

constexpr int kStripRows = 16;    // at most; a long walk reads few rows twice, a short one gives more threads
constexpr int kMaxGridY = 65535;  // CUDA's limit

// The sums of a window's rows, oldest first.
template <int SIZE>
struct WindowRows {
  Vector<4> row[SIZE];

  __device__ __forceinline__ void push(const Vector<4>& newest) {
#pragma unroll
    for (int r = 0; r + 1 < SIZE; ++r) row[r] = row[r + 1];
    row[SIZE - 1] = newest;
  }

  __device__ __forceinline__ Vector<4> sum() const {
    Vector<4> result = row[0];
#pragma unroll
    for (int r = 1; r < SIZE; ++r) add_to(result, row[r]);
    return result;
  }
};

// The sum over one row of the window around column w, `offset` being the element there.
template <int SIZE, bool SQUARED>
__device__ __forceinline__ Vector<4> row_sum(const LrnProblem& problem, const float* values, int offset,
                                             int w) {
  Vector<4> sum = zeros<4>();
#pragma unroll
  for (int s = -(SIZE / 2); s <= SIZE / 2; ++s) {
    if (w + s >= 0 && w + s < problem.w) {
      const Vector<4> value = load<4>(values + offset + s * problem.c);
      add_to(sum, SQUARED ? squares(value) : value);
    }
  }
  return sum;
}

// blockIdx.y is the strip of `strip_rows` rows; the threads run over channels, columns and images.
template <Step STEP, int SIZE>
__global__ void __launch_bounds__(kThreads) lrn_map(LrnArguments a, int strip_rows, StepArguments p) {
  static_assert(SIZE % 2 == 1, "the windows that hold a pixel are those of the pixels in its own window");
  constexpr int kHalf = SIZE / 2;
  const LrnProblem& problem = a.problem;
  const int thread = blockIdx.x * kThreads + threadIdx.x;
  int c, w;
  const int n = a.w_div.divide(a.c_div.divide(thread, c), w);
  if (n >= problem.n) return;
  const int begin = blockIdx.y * strip_rows;
  const int end = min(begin + strip_rows, problem.h);
  const int image_row = problem.w * problem.c;
  const int top = n * problem.h * image_row + w * problem.c + c * 4;

  WindowRows<SIZE> rows;
  for (int newest = begin - kHalf; newest < end + kHalf; ++newest) {
    Vector<4> sum = zeros<4>();
    if (newest >= 0 && newest < problem.h) {
      sum = row_sum<SIZE, STEP != Step::finish>(problem, STEP == Step::finish ? p.t : p.x,
                                                top + newest * image_row, w);
    }
    rows.push(sum);
    const int h = newest - kHalf;
    if (h < begin) continue;  // the first rows only fill the window
    finish_window<STEP>(a, p, top + h * image_row, rows.sum());
  }
}

// ---- any window -----------------------------------------------------------------------------------------

// The pixels and channels of one window, in the image of the element it belongs to.
struct Box {
  int image;  // offset of the image's first element
  int h_begin, h_end, w_begin, w_end, c_begin, c_end;
};

// The window of an element or, transposed, the elements whose windows hold it.
__device__ __forceinline__ Box box_of(const LrnArguments& a, int element, bool transposed) {
  const LrnProblem& problem = a.problem;
  int c, w, h;
  int pixel = a.c_div.divide(element, c);
  pixel = a.w_div.divide(pixel, w);
  const int n = a.h_div.divide(pixel, h);
  const int half = problem.size / 2, other_half = problem.size - 1 - half;
  const int left = transposed ? other_half : half;
  const int right = transposed ? half : other_half;
  Box box{n * problem.h * problem.w * problem.c, h, h + 1, w, w + 1, c, c + 1};
  if (problem.region == LrnRegion::same_map) {
    box.h_begin = max(h - left, 0);
    box.h_end = min(h + right + 1, problem.h);
    box.w_begin = max(w - left, 0);
    box.w_end = min(w + right + 1, problem.w);
  } else {
    const int group_size = problem.c / problem.groups;
    const int group = a.group_div.quotient(c) * group_size;
    box.c_begin = max(c - left, group);
    box.c_end = min(c + right + 1, group + group_size);
  }
  return box;
}

// The sum of values, or of their squares, over the box.
template <bool SQUARED>
__device__ __forceinline__ float box_sum(const LrnArguments& a, const Box& box, const float* values) {
  float sum = 0.0f;
  for (int h = box.h_begin; h < box.h_end; ++h) {
    for (int w = box.w_begin; w < box.w_end; ++w) {
      const float* pixel = values + box.image + (h * a.problem.w + w) * a.problem.c;
      for (int c = box.c_begin; c < box.c_end; ++c) sum += SQUARED ? pixel[c] * pixel[c] : pixel[c];
    }
  }
  return sum;
}

template <Step STEP>
__global__ void __launch_bounds__(kThreads) lrn_any(LrnArguments a, StepArguments p) {
  const int64_t thread = int64_t{blockIdx.x} * kThreads + threadIdx.x;
  if (thread >= a.vectors) return;
  const int element = static_cast<int>(thread);
  const Box box = box_of(a, element, STEP == Step::finish);
  const float sum = STEP == Step::finish ? box_sum<false>(a, box, p.t) : box_sum<true>(a, box, p.x);
  finish_window<STEP, 1>(a, p, element, {{sum}});
}

// ---- launchers ------------------------------------------------------------------------------------------

LrnArguments arguments(const LrnProblem& problem, int width) {
  // A group narrower than a vector exists only in the same map, where groups do not matter.
  const int group_vectors = std::max(1, problem.c / problem.groups / width);
  return {problem,
          2.0f * problem.alpha * problem.beta,
          problem.count() / width,
          Divider(problem.c / width),
          Divider(group_vectors),
          Divider(problem.w),
          Divider(problem.h)};
}

bool small_window_across(const LrnProblem& problem) {
  return problem.region == LrnRegion::across_channels && problem.c / problem.groups % 4 == 0 &&
         problem.size % 2 == 1 && problem.size >= 3 && problem.size <= 9;
}

template <int SIZE, bool ALIGNED>
void launch_across(const LrnProblem& problem, const float* x, const float* dy, float* out, Stream stream) {
  const LrnArguments a = arguments(problem, 4);
  if (!dy) {
    const dim3 grid(static_cast<unsigned>(ceil_div(a.vectors, kThreads)));
    CCONVNET_LAUNCH((lrn_across_forward<SIZE, ALIGNED>), grid, kThreads, stream, a, x, out);
  } else {
    const dim3 grid(static_cast<unsigned>(ceil_div(a.vectors, kInnerThreads)));
    CCONVNET_LAUNCH((lrn_across_backward<SIZE, ALIGNED>), grid, kThreads, stream, a, x, dy, out);
  }
}

// Forward where `dy` is null, else backward.
void launch_across(const LrnProblem& problem, const float* x, const float* dy, float* out, Stream stream) {
  const auto launch_size = [&](auto size) {
    if (aligned(x, dy, out)) {
      launch_across<decltype(size)::value, true>(problem, x, dy, out, stream);
    } else {
      launch_across<decltype(size)::value, false>(problem, x, dy, out, stream);
    }
  };
  switch (problem.size) {
    case 3:
      return launch_size(std::integral_constant<int, 3>());
    case 5:
      return launch_size(std::integral_constant<int, 5>());
    case 7:
      return launch_size(std::integral_constant<int, 7>());
    case 9:
      return launch_size(std::integral_constant<int, 9>());
  }
}

template <Step STEP>
void launch_step(const LrnProblem& problem, const StepArguments& p, Stream stream) {
  if (problem.region == LrnRegion::same_map && (problem.size == 3 || problem.size == 5) &&
      problem.c % 4 == 0 && aligned(p.x, p.dy, p.t, p.out)) {
    const LrnArguments a = arguments(problem, 4);
    const int64_t strips = std::min<int64_t>(ceil_div(problem.h, kStripRows), kMaxGridY);
    const int strip_rows = static_cast<int>(ceil_div(problem.h, strips));
    const dim3 grid(static_cast<unsigned>(ceil_div(int64_t{a.vectors / problem.h}, kThreads)),
                    static_cast<unsigned>(ceil_div(problem.h, strip_rows)));
    if (problem.size == 3) {
      CCONVNET_LAUNCH((lrn_map<STEP, 3>), grid, kThreads, stream, a, strip_rows, p);
    } else {
      CCONVNET_LAUNCH((lrn_map<STEP, 5>), grid, kThreads, stream, a, strip_rows, p);
    }
  } else {
    const LrnArguments a = arguments(problem, 1);
    const dim3 grid(static_cast<unsigned>(ceil_div(a.vectors, kThreads)));
    CCONVNET_LAUNCH((lrn_any<STEP>), grid, kThreads, stream, a, p);
  }
}

}  // namespace

void lrn_forward(const LrnProblem& problem, const float* x, float* y, Stream stream) {
  if (small_window_across(problem)) {
    launch_across(problem, x, nullptr, y, stream);
  } else {
    launch_step<Step::forward>(problem, {x, nullptr, nullptr, y}, stream);
  }
}

size_t lrn_backward_workspace(const LrnProblem& problem) {
  return small_window_across(problem) ? 0 : sizeof(float) * problem.count();
}

void lrn_backward(const LrnProblem& problem, const float* x, const float* dy, float* dx, void* workspace,
                  Stream stream) {
  if (small_window_across(problem)) {
    launch_across(problem, x, dy, dx, stream);
  } else {
    const StepArguments p{x, dy, static_cast<float*>(workspace), dx};
    launch_step<Step::begin>(problem, p, stream);
    launch_step<Step::finish>(problem, p, stream);
  }
}

}  // namespace cconvnet
