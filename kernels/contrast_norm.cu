// Contrast normalisation in the same map, y = x * d^-beta with u = x - (mean of x over a window) and d = k +
// alpha * (sum of u^2 over the window). Backward, with t = dy * x * d^(-beta-1),
//   g = -2 alpha beta u * (sum of t over the windows that contain u),
//   dx = dy * d^-beta + g - (sum over the windows that contain x of g / size of the window).
//
// Each sum needs the whole of the one before it, so every step is a launch of its own: two forward, four
// backward. A thread owns WIDTH neighbouring channels of one pixel and walks through its window in global
// memory; the L1 cache serves reads that neighbours share. Nothing is added atomically: where windows
// overlap, a pixel gathers from those that contain it. Values between the launches are floats whatever the
// type of x, so that each output is rounded once.
#include "core/select.h"
#include "core/vector.cuh"

namespace cconvnet {
namespace {

//            the sum over        writes
// center     x                   u
// forward    u^2                 y
// terms      u^2                 t, and part = dy * d^-beta
// spread     t, transposed       part += g, and g / size of the window in place of u
// gradient   those, transposed   dx = part less the sum
// A transposed sum runs over the pixels whose windows contain the thread's.
enum class Step { center, forward, terms, spread, gradient };

struct ContrastArguments {
  ContrastNormProblem problem;
  float gradient_factor;        // 2 alpha beta
  int vectors;                  // of the whole tensor
  Divider c_div, w_div, h_div;  // by the vectors of a pixel, by W and by H
};

template <class T>
struct ContrastArrays {
  const T *x, *dy;
  float *u, *t, *part;  // in the workspace
  T* out;               // y or dx
  void* workspace;
  bool aligned() const { return cconvnet::aligned(x, dy, u, t, part, out); }
};

// A window clipped to the image or, transposed, the pixels whose windows contain one.
struct Window {
  int h_begin, h_end, w_begin, w_end;

  static __device__ __forceinline__ Window around(const ContrastNormProblem& problem, int h, int w,
                                                  bool transposed) {
    const int half = problem.size / 2, other_half = problem.size - 1 - half;
    const int before = transposed ? other_half : half, after = transposed ? half : other_half;
    return {max(h - before, 0), min(h + after + 1, problem.h), max(w - before, 0),
            min(w + after + 1, problem.w)};
  }

  __device__ __forceinline__ float size() const {
    return static_cast<float>((h_end - h_begin) * (w_end - w_begin));
  }
};

// The sum of values, or of their squares, over a window; `values` points to the thread's channels of the
// image's first pixel.
template <bool SQUARED, int WIDTH, class T>
__device__ __forceinline__ Vector<WIDTH> window_sum(const ContrastNormProblem& problem, const Window& window,
                                                    const T* values) {
  Vector<WIDTH> sum = zeros<WIDTH>();
  for (int h = window.h_begin; h < window.h_end; ++h) {
    for (int w = window.w_begin; w < window.w_end; ++w) {
      Vector<WIDTH> value = load<WIDTH>(values + (h * problem.w + w) * problem.c);
#pragma unroll
      for (int i = 0; i < WIDTH; ++i) {
        if (SQUARED) value.lane[i] *= value.lane[i];
      }
      add_to(sum, value);
    }
  }
  return sum;
}

// Without a number ptxas 13.0 spills two registers on sm_80.
constexpr int kMinBlocks = 2;

template <Step STEP, int WIDTH, class T>
__global__ void __launch_bounds__(kThreads, kMinBlocks)
    contrast_norm(ContrastArguments args, ContrastArrays<T> arrays) {
  const int64_t vector = int64_t{blockIdx.x} * kThreads + threadIdx.x;
  if (vector >= args.vectors) return;
  const ContrastNormProblem& problem = args.problem;
  int c, w, h;
  int pixel = args.c_div.divide(static_cast<int>(vector), c);
  pixel = args.w_div.divide(pixel, w);
  const int n = args.h_div.divide(pixel, h);
  const int image = n * problem.h * problem.w * problem.c + c * WIDTH;
  const int own = static_cast<int>(vector) * WIDTH;
  const Window window = Window::around(problem, h, w, STEP == Step::spread || STEP == Step::gradient);

  if constexpr (STEP == Step::center) {
    const Vector<WIDTH> sum = window_sum<false, WIDTH>(problem, window, arrays.x + image);
    Vector<WIDTH> u = load<WIDTH>(arrays.x + own);
#pragma unroll
    for (int i = 0; i < WIDTH; ++i) u.lane[i] -= sum.lane[i] / window.size();
    store(arrays.u + own, u);
  } else if constexpr (STEP == Step::forward || STEP == Step::terms) {
    const Vector<WIDTH> sum = window_sum<true, WIDTH>(problem, window, arrays.u + image);
    const Vector<WIDTH> x = load<WIDTH>(arrays.x + own);
    Vector<WIDTH> t = zeros<WIDTH>(), out = STEP == Step::forward ? x : load<WIDTH>(arrays.dy + own);
#pragma unroll
    for (int i = 0; i < WIDTH; ++i) {
      // Makes y NaN where the sum overflows: the power of an infinite d would hide it.
      float d = problem.k + problem.alpha * sum.lane[i];
      d += 0.0f * d;
      const float power = powf(d, -problem.beta);
      t.lane[i] = out.lane[i] * x.lane[i] * (power / d);
      out.lane[i] *= power;
    }
    if constexpr (STEP == Step::terms) {
      store(arrays.t + own, t);
      store(arrays.part + own, out);
    } else {
      store(arrays.out + own, out);
    }
  } else if constexpr (STEP == Step::spread) {
    const Vector<WIDTH> sum = window_sum<false, WIDTH>(problem, window, arrays.t + image);
    const float size = Window::around(problem, h, w, false).size();
    Vector<WIDTH> part = load<WIDTH>(arrays.part + own), u = load<WIDTH>(arrays.u + own);
#pragma unroll
    for (int i = 0; i < WIDTH; ++i) {
      const float g = -args.gradient_factor * u.lane[i] * sum.lane[i];
      part.lane[i] += g;
      u.lane[i] = g / size;
    }
    store(arrays.part + own, part);
    store(arrays.u + own, u);
  } else {
    const Vector<WIDTH> sum = window_sum<false, WIDTH>(problem, window, arrays.u + image);
    Vector<WIDTH> dx = load<WIDTH>(arrays.part + own);
#pragma unroll
    for (int i = 0; i < WIDTH; ++i) dx.lane[i] -= sum.lane[i];
    store(arrays.out + own, dx);
  }
}

// ---- launchers ------------------------------------------------------------------------------------------

template <Step STEP, int WIDTH, class T>
void launch(const ContrastNormProblem& problem, const ContrastArrays<T>& arrays, Stream stream) {
  const ContrastArguments args = {problem,
                                  2.0f * problem.alpha * problem.beta,
                                  problem.count() / WIDTH,
                                  Divider(problem.c / WIDTH),
                                  Divider(problem.w),
                                  Divider(problem.h)};
  const dim3 grid(static_cast<unsigned>(ceil_div(args.vectors, kThreads)));
  CCONVNET_LAUNCH((contrast_norm<STEP, WIDTH, T>), grid, kThreads, stream, args, arrays);
}

template <int WIDTH, class T>
void launch_forward(const ContrastNormProblem& problem, const ContrastArrays<T>& arrays, Stream stream) {
  launch<Step::center, WIDTH>(problem, arrays, stream);
  launch<Step::forward, WIDTH>(problem, arrays, stream);
}

template <int WIDTH, class T>
void launch_backward(const ContrastNormProblem& problem, const ContrastArrays<T>& arrays, Stream stream) {
  launch<Step::center, WIDTH>(problem, arrays, stream);
  launch<Step::terms, WIDTH>(problem, arrays, stream);
  launch<Step::spread, WIDTH>(problem, arrays, stream);
  launch<Step::gradient, WIDTH>(problem, arrays, stream);
}

// ---- selection ------------------------------------------------------------------------------------------

template <class T>
using ContrastTable = SelectionTable<ContrastNormProblem, ContrastArrays<T>>;

// Vectors need a number of channels that they divide: every array then begins on a vector's boundary.
template <class T>
bool vectors_divide_channels(const ContrastNormProblem& problem) {
  return problem.c % kVectorWidth<T> == 0;
}

size_t forward_workspace(const ContrastNormProblem& problem) {
  return sizeof(float) * problem.count();  // u
}

size_t backward_workspace(const ContrastNormProblem& problem) {
  return 3 * sizeof(float) * problem.count();  // u, t and part
}

template <class T>
const ContrastTable<T>& forward_table() {
  static const std::string name = std::string("contrast_norm_forward_") + kElementName<T>;
  static const ContrastTable<T> table(
      "contrast_norm_forward",
      {{name, true, vectors_divide_channels<T>, always, forward_workspace,
        launch_forward<kVectorWidth<T>, T>},
       {name + "_scalar", false, always, always, forward_workspace, launch_forward<1, T>}});
  return table;
}

template <class T>
const ContrastTable<T>& backward_table() {
  static const std::string name = std::string("contrast_norm_backward_") + kElementName<T>;
  static const ContrastTable<T> table(
      "contrast_norm_backward",
      {{name, true, vectors_divide_channels<T>, always, backward_workspace,
        launch_backward<kVectorWidth<T>, T>},
       {name + "_scalar", false, always, always, backward_workspace, launch_backward<1, T>}});
  return table;
}

}  // namespace

size_t contrast_norm_forward_workspace(const ContrastNormProblem& problem) {
  return forward_table<float>().workspace(problem, nullptr);
}

size_t contrast_norm_backward_workspace(const ContrastNormProblem& problem) {
  return backward_table<float>().workspace(problem, nullptr);
}

template <class T>
void contrast_norm_forward(const ContrastNormProblem& problem, const T* x, T* y, void* workspace,
                           Stream stream) {
  float* const u = static_cast<float*>(workspace);
  forward_table<T>().run(problem, {x, nullptr, u, nullptr, nullptr, y, workspace}, stream, nullptr);
}

template <class T>
void contrast_norm_backward(const ContrastNormProblem& problem, const T* x, const T* dy, T* dx,
                            void* workspace, Stream stream) {
  float* const u = static_cast<float*>(workspace);
  float* const t = u + problem.count();
  float* const part = t + problem.count();
  backward_table<T>().run(problem, {x, dy, u, t, part, dx, workspace}, stream, nullptr);
}

template void contrast_norm_forward(const ContrastNormProblem&, const float*, float*, void*, Stream);
template void contrast_norm_backward(const ContrastNormProblem&, const float*, const float*, float*, void*,
                                     Stream);
template void contrast_norm_forward(const ContrastNormProblem&, const bfloat16*, bfloat16*, void*, Stream);
template void contrast_norm_backward(const ContrastNormProblem&, const bfloat16*, const bfloat16*, bfloat16*,
                                     void*, Stream);

}  // namespace cconvnet
