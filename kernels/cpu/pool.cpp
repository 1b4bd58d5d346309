// Max and average pooling. The lanes are channels. A row of output pixels forward, of input pixels backward,
// is one item of work. Backward gathers: an input pixel reads the windows that contain it, and no other
// thread writes its gradient. So the order of its sum is fixed and each gradient is written once.
#include "pool.h"

#include "api.h"
#include "core/input_epilogue.h"

namespace cconvnet {
namespace {

// ---- forward --------------------------------------------------------------------------------------------

template <class T>
CCONVNET_CLONES void maxpool_forward_row(const PoolProblem& problem, const T* x, int p, float* column, T* y) {
  const int64_t stride = int64_t{problem.w} * problem.c;
  maxpool_row(problem, [&](int i) { return x + i * stride; }, p, column, y);
}

// The divisors of averages: the sizes of the windows along one axis, clipped to the image or the padded
// image.
std::vector<int64_t> counted_sizes(int windows, int window, int stride, int pad, int pad_after, int size,
                                   bool count_padding) {
  const Range counted = count_padding ? Range{-pad, size + pad_after} : Range{0, size};
  std::vector<int64_t> sizes;
  for (int p = 0; p < windows; ++p) {
    const int first = p * stride - pad;
    sizes.push_back(std::min(first + window, counted.end) - std::max(first, counted.begin));
  }
  return sizes;
}

struct Counted {
  std::vector<int64_t> heights, widths;
  explicit Counted(const PoolProblem& problem)
      : heights(counted_sizes(problem.p, problem.window_h, problem.stride_h, problem.pad_h,
                              problem.pad_bottom, problem.h, problem.count_padding)),
        widths(counted_sizes(problem.q, problem.window_w, problem.stride_w, problem.pad_w, problem.pad_right,
                             problem.w, problem.count_padding)) {}
};

template <class T>
CCONVNET_CLONES void avgpool_forward_row(const PoolProblem& problem, const Counted& counted, const T* x,
                                         int p, T* y) {
  const Range rows = pixels_of(p, problem.window_h, problem.stride_h, problem.pad_h, problem.h);
  for (int q = 0; q < problem.q; ++q, y += problem.c) {
    const Range columns = pixels_of(q, problem.window_w, problem.stride_w, problem.pad_w, problem.w);
    const float count = static_cast<float>(counted.heights[p] * counted.widths[q]);
    for_lanes(problem.c, [&](int c, int lanes) __attribute__((always_inline)) {
      Lanes sum = {};
      for (int i = rows.begin; i < rows.end; ++i) {
        const T* from = x + (int64_t{i} * problem.w + columns.begin) * problem.c + c;
        for (int j = columns.begin; j < columns.end; ++j, from += problem.c) sum += load(from, lanes);
      }
      store(y + c, sum / count, lanes);
    });
  }
}

// ---- backward -------------------------------------------------------------------------------------------

// Row i of one image's gradient.
template <class T>
CCONVNET_CLONES void maxpool_backward_row(const PoolProblem& problem, const Range* columns, const T* x,
                                          const T* y, const T* dy, int i, T* dx) {
  const Range rows = outputs_of(i, problem.window_h, problem.stride_h, problem.pad_h, problem.p);
  for (int j = 0; j < problem.w; ++j) {
    const Windows<T> windows = {y, dy, rows, columns[j], problem.q, problem.c};
    const T* values = x + (int64_t{i} * problem.w + j) * problem.c;
    T* to = dx + int64_t{j} * problem.c;
    with_gradient(windows, [&](const auto& gradient) __attribute__((always_inline)) {
      for_lanes(problem.c, [&](int c, int lanes) __attribute__((always_inline)) {
        store(to + c, gradient(c, lanes, load(values + c, lanes)), lanes);
      });
    });
  }
}

template <class T>
CCONVNET_CLONES void avgpool_backward_row(const PoolProblem& problem, const Counted& counted,
                                          const Range* columns, const T* dy, int i, T* dx) {
  const Range rows = outputs_of(i, problem.window_h, problem.stride_h, problem.pad_h, problem.p);
  for (int j = 0; j < problem.w; ++j, dx += problem.c) {
    for_lanes(problem.c, [&](int c, int lanes) __attribute__((always_inline)) {
      Lanes sum = {};
      for (int p = rows.begin; p < rows.end; ++p) {
        for (int q = columns[j].begin; q < columns[j].end; ++q) {
          const float count = static_cast<float>(counted.heights[p] * counted.widths[q]);
          sum += load(dy + (int64_t{p} * problem.q + q) * problem.c + c, lanes) / count;
        }
      }
      store(dx + c, sum, lanes);
    });
  }
}

}  // namespace

template <class T>
void maxpool_forward(const PoolProblem& problem, const T* x, T* y, Stream) {
  const Strides stride(problem);
  for_rows(problem, problem.p, pool_forward_cost(problem), stride.x_row,
           [&](float* column, int64_t n, int p) {
             maxpool_forward_row(problem, x + n * stride.x, p, column, y + n * stride.y + p * stride.y_row);
           });
}

size_t maxpool_backward_workspace(const PoolProblem& problem, bool) {
  return bias_grad_workspace(pixels_of(problem));
}

template <class T>
void maxpool_backward(const PoolProblem& problem, const T* x, const T* y, const T* dy,
                      const InputEpilogue& epilogue, T* dx, void* workspace, Stream stream) {
  const Strides stride(problem);
  const std::vector<Range> columns = outputs_of_columns(problem);
  for_rows(problem, problem.h, pool_backward_cost(problem), 0, [&](float*, int64_t n, int i) {
    maxpool_backward_row(problem, columns.data(), x + n * stride.x, y + n * stride.y, dy + n * stride.y, i,
                         dx + n * stride.x + i * stride.x_row);
  });
  apply(epilogue, pixels_of(problem), dx, workspace, stream);
}

template <class T>
void avgpool_forward(const PoolProblem& problem, const T* x, T* y, Stream) {
  const Strides stride(problem);
  const Counted counted(problem);
  for_rows(problem, problem.p, pool_forward_cost(problem), 0, [&](float*, int64_t n, int p) {
    avgpool_forward_row(problem, counted, x + n * stride.x, p, y + n * stride.y + p * stride.y_row);
  });
}

size_t avgpool_backward_workspace(const PoolProblem& problem, bool) {
  return bias_grad_workspace(pixels_of(problem));
}

template <class T>
void avgpool_backward(const PoolProblem& problem, const T* dy, const InputEpilogue& epilogue, T* dx,
                      void* workspace, Stream stream) {
  const Strides stride(problem);
  const Counted counted(problem);
  const std::vector<Range> columns = outputs_of_columns(problem);
  for_rows(problem, problem.h, pool_backward_cost(problem), 0, [&](float*, int64_t n, int i) {
    avgpool_backward_row(problem, counted, columns.data(), dy + n * stride.y, i,
                         dx + n * stride.x + i * stride.x_row);
  });
  apply(epilogue, pixels_of(problem), dx, workspace, stream);
}

template void maxpool_forward(const PoolProblem&, const float*, float*, Stream);
template void maxpool_forward(const PoolProblem&, const bfloat16*, bfloat16*, Stream);
template void maxpool_backward(const PoolProblem&, const float*, const float*, const float*,
                               const InputEpilogue&, float*, void*, Stream);
template void maxpool_backward(const PoolProblem&, const bfloat16*, const bfloat16*, const bfloat16*,
                               const InputEpilogue&, bfloat16*, void*, Stream);
template void avgpool_forward(const PoolProblem&, const float*, float*, Stream);
template void avgpool_forward(const PoolProblem&, const bfloat16*, bfloat16*, Stream);
template void avgpool_backward(const PoolProblem&, const float*, const InputEpilogue&, float*, void*, Stream);
template void avgpool_backward(const PoolProblem&, const bfloat16*, const InputEpilogue&, bfloat16*, void*,
                               Stream);

}  // namespace cconvnet
