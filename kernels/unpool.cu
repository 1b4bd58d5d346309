// Max unpooling, forward and backward. u[N,H,W,C] is the input of a max pooling; x[N,P,Q,C] has a value for each
// of its windows, and y[N,H,W,C] the shape of u.
//
// Both directions are gathers, like those of the pooling. A thread owns WIDTH neighbouring channels of one pixel
// of y (forward) or of one window (backward). It finds the places of maxima anew, in u, so nothing is kept
// between the passes and nothing is added atomically. A window is read for each of its pixels forward, and once
// backward; the L1 cache serves all but the first reads.
#include "core/larger.h"
#include "core/select.h"
#include "pool_windows.cuh"

namespace cconvnet {
namespace {

struct UnpoolArguments {
  PoolProblem problem;
  PixelVectors vectors;  // of the tensor that the threads run over
  Divider stride_h_div, stride_w_div;

  // The pixels of window (p, q) that are in the image.
  __device__ __forceinline__ Range rows_of(int p) const {
    return window(p, problem.stride_h, problem.pad_h, problem.window_h, problem.h);
  }
  __device__ __forceinline__ Range columns_of(int q) const {
    return window(q, problem.stride_w, problem.pad_w, problem.window_w, problem.w);
  }

  __device__ __forceinline__ int pixel(const Position& at, int h, int w) const {
    return ((at.n * problem.h + h) * problem.w + w) * problem.c + at.c;
  }
};

// ---- kernels --------------------------------------------------------------------------------------------

template <int WIDTH, class T>
__global__ void __launch_bounds__(kThreads)
    unpool_forward(UnpoolArguments args, const T* x, const T* u, T* y) {
  const int64_t vector = int64_t{blockIdx.x} * kThreads + threadIdx.x;
  if (vector >= args.vectors.count) return;
  const PoolProblem& problem = args.problem;
  const Position at = position_of<WIDTH>(args.vectors, static_cast<int>(vector));
  const Range rows = windows_holding(at.row, problem.stride_h, args.stride_h_div, problem.pad_h,
                                     problem.window_h, problem.p);
  const Range columns = windows_holding(at.column, problem.stride_w, args.stride_w_div, problem.pad_w,
                                        problem.window_w, problem.q);

  const Vector<WIDTH> own = load<WIDTH>(u + vector * WIDTH);
  Vector<WIDTH> sum = zeros<WIDTH>();
  for (int p = rows.begin; p < rows.end; ++p) {
    for (int q = columns.begin; q < columns.end; ++q) {
      const Range inside_h = args.rows_of(p), inside_w = args.columns_of(q);
      // The pixel is the window's first maximum if it exceeds those before it, and none behind it exceeds it.
      bool is_maximum[WIDTH];
#pragma unroll
      for (int i = 0; i < WIDTH; ++i) is_maximum[i] = true;
      for (int h = inside_h.begin; h < inside_h.end; ++h) {
        for (int w = inside_w.begin; w < inside_w.end; ++w) {
          const Vector<WIDTH> other = load<WIDTH>(u + args.pixel(at, h, w));
          const bool is_before = h < at.row || (h == at.row && w < at.column);
#pragma unroll
          for (int i = 0; i < WIDTH; ++i) {
            is_maximum[i] &=
                is_before ? exceeds(own.lane[i], other.lane[i]) : !exceeds(other.lane[i], own.lane[i]);
          }
        }
      }
      const Vector<WIDTH> value =
          load<WIDTH>(x + ((at.n * problem.p + p) * problem.q + q) * problem.c + at.c);
#pragma unroll
      for (int i = 0; i < WIDTH; ++i) {
        if (is_maximum[i]) sum.lane[i] += value.lane[i];
      }
    }
  }
  store(y + vector * WIDTH, sum);
}

template <int WIDTH, class T>
__global__ void __launch_bounds__(kThreads)
    unpool_backward(UnpoolArguments args, const T* u, const T* dy, T* dx) {
  const int64_t vector = int64_t{blockIdx.x} * kThreads + threadIdx.x;
  if (vector >= args.vectors.count) return;
  const Position at = position_of<WIDTH>(args.vectors, static_cast<int>(vector));
  const Range rows = args.rows_of(at.row), columns = args.columns_of(at.column);

  const int first = args.pixel(at, rows.begin, columns.begin);
  Vector<WIDTH> largest = load<WIDTH>(u + first), gradient = load<WIDTH>(dy + first);
  for (int h = rows.begin; h < rows.end; ++h) {
    for (int w = columns.begin; w < columns.end; ++w) {
      const int pixel = args.pixel(at, h, w);
      const Vector<WIDTH> value = load<WIDTH>(u + pixel), here = load<WIDTH>(dy + pixel);
#pragma unroll
      for (int i = 0; i < WIDTH; ++i) {
        if (exceeds(value.lane[i], largest.lane[i])) {
          largest.lane[i] = value.lane[i];
          gradient.lane[i] = here.lane[i];
        }
      }
    }
  }
  store(dx + vector * WIDTH, gradient);
}

// ---- launchers ------------------------------------------------------------------------------------------

// The arrays of one call: x or dy is read.
template <class T>
struct UnpoolArrays {
  const T *given, *u;
  T* out;  // y or dx
  void* workspace = nullptr;
  bool aligned() const { return cconvnet::aligned(given, u, out); }
};

UnpoolArguments unpool_arguments(const PoolProblem& problem, int rows, int columns, int width) {
  return {problem, PixelVectors(problem.n, rows, columns, problem.c, width), Divider(problem.stride_h),
          Divider(problem.stride_w)};
}

template <int WIDTH, class T>
void launch_forward(const PoolProblem& problem, const UnpoolArrays<T>& arrays, Stream stream) {
  const UnpoolArguments args = unpool_arguments(problem, problem.h, problem.w, WIDTH);
  CCONVNET_LAUNCH((unpool_forward<WIDTH, T>), args.vectors.blocks(), kThreads, stream, args, arrays.given,
                  arrays.u, arrays.out);
}

template <int WIDTH, class T>
void launch_backward(const PoolProblem& problem, const UnpoolArrays<T>& arrays, Stream stream) {
  const UnpoolArguments args = unpool_arguments(problem, problem.p, problem.q, WIDTH);
  CCONVNET_LAUNCH((unpool_backward<WIDTH, T>), args.vectors.blocks(), kThreads, stream, args, arrays.u,
                  arrays.given, arrays.out);
}

// ---- selection ------------------------------------------------------------------------------------------

template <class T>
using UnpoolTable = SelectionTable<PoolProblem, UnpoolArrays<T>>;

template <class T>
using Launch = void (*)(const PoolProblem&, const UnpoolArrays<T>&, Stream);

template <class T>
UnpoolTable<T> table(const std::string& operation, Launch<T> vectors, Launch<T> scalars) {
  const std::string typed = operation + "_" + kElementName<T>;
  return UnpoolTable<T>(operation, {{typed, true, vectors_divide_channels<T>, always, no_workspace, vectors},
                                    {typed + "_scalar", false, always, always, no_workspace, scalars}});
}

}  // namespace

template <class T>
void maxunpool_forward(const PoolProblem& problem, const T* x, const T* u, T* y, Stream stream) {
  static const UnpoolTable<T> forward =
      table<T>("maxunpool_forward", launch_forward<kVectorWidth<T>, T>, launch_forward<1, T>);
  forward.run(problem, {x, u, y}, stream, nullptr);
}

template <class T>
void maxunpool_backward(const PoolProblem& problem, const T* u, const T* dy, T* dx, Stream stream) {
  static const UnpoolTable<T> backward =
      table<T>("maxunpool_backward", launch_backward<kVectorWidth<T>, T>, launch_backward<1, T>);
  backward.run(problem, {dy, u, dx}, stream, nullptr);
}

template void maxunpool_forward(const PoolProblem&, const float*, const float*, float*, Stream);
template void maxunpool_forward(const PoolProblem&, const bfloat16*, const bfloat16*, bfloat16*, Stream);
template void maxunpool_backward(const PoolProblem&, const float*, const float*, float*, Stream);
template void maxunpool_backward(const PoolProblem&, const bfloat16*, const bfloat16*, bfloat16*, Stream);

}  // namespace cconvnet
