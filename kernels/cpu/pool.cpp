// Max and average pooling. The lanes are channels; a row of output pixels forward, of input pixels backward,
// is one item of work. Backward gathers: an input pixel asks the windows that hold it, which no other thread
// writes for it, so the order of its sum is fixed and each gradient is written once.
#include <cmath>
#include <cstring>
#include <vector>

#include "api.h"
#include "larger.h"
#include "parallel.h"

namespace cconvnet {
namespace {

struct Range {
  int begin, end;
  int size() const { return end - begin; }
};

// The pixels of output `p`'s window along one axis, clipped to the image.
inline Range pixels_of(int p, int window, int stride, int pad, int size) {
  const int first = p * stride - pad;
  return {std::max(first, 0), std::min(first + window, size)};
}

// The outputs along one axis whose windows hold pixel `i`; with a negative padding the first pixels are in
// none.
inline Range outputs_of(int i, int window, int stride, int pad, int outputs) {
  const int next = i + pad + stride;
  return {std::max(next - window, 0) / stride, std::min(std::max(next, 0) / stride, outputs)};
}

// ---- forward --------------------------------------------------------------------------------------------

// to[i] = the largest at i of the pieces of `count` values that begin every `stride` values, those of
// `range`.
inline __attribute__((always_inline)) void largest_of(Range range, const float* pieces, int64_t stride,
                                                      int64_t count, float* to) {
  const auto piece = [&](int i) { return pieces + std::min(i, range.end - 1) * stride; };
  const float* so_far = piece(range.begin);
  // Two more at a time; where one is missing, the last one stands twice, which changes nothing.
  for (int next = range.begin + 1; next < range.end || so_far != to; next += 2) {
    const float *a = piece(next), *b = piece(next + 1);
#pragma omp simd
    for (int64_t i = 0; i < count; ++i) to[i] = larger(b[i], larger(a[i], so_far[i]));
    so_far = to;
  }
}

// Row p of one image's output: first down the columns, into `column`[W, C], in long loops that the processor
// reads ahead of, then along the row.
CCONVNET_CLONES void maxpool_forward_row(const PoolProblem& o, const float* x, int p, float* column,
                                         float* y) {
  const int64_t row = int64_t{o.w} * o.c;
  largest_of(pixels_of(p, o.window_h, o.stride_h, o.pad_h, o.h), x, row, row, column);
  for (int q = 0; q < o.q; ++q) {
    largest_of(pixels_of(q, o.window_w, o.stride_w, o.pad_w, o.w), column, o.c, o.c, y + int64_t{q} * o.c);
  }
}

CCONVNET_CLONES void avgpool_forward_row(const PoolProblem& o, const float* x, int p, float* y) {
  const Range rows = pixels_of(p, o.window_h, o.stride_h, o.pad_h, o.h);
  for (int q = 0; q < o.q; ++q) {
    const Range columns = pixels_of(q, o.window_w, o.stride_w, o.pad_w, o.w);
    float* sum = y + int64_t{q} * o.c;
    std::memset(sum, 0, o.c * sizeof(float));
    for (int i = rows.begin; i < rows.end; ++i) {
      for (int j = columns.begin; j < columns.end; ++j) {
        const float* values = x + (int64_t{i} * o.w + j) * o.c;
#pragma omp simd
        for (int c = 0; c < o.c; ++c) sum[c] += values[c];
      }
    }
    const float count = static_cast<float>(int64_t{rows.size()} * columns.size());
#pragma omp simd
    for (int c = 0; c < o.c; ++c) sum[c] /= count;
  }
}

// ---- backward -------------------------------------------------------------------------------------------

// Row i of one image's gradient. `columns` says which outputs' windows hold each pixel of a row: a division
// for every pixel would take as long as its channels.
CCONVNET_CLONES void maxpool_backward_row(const PoolProblem& o, const Range* columns, const float* x,
                                          const float* y, const float* dy, int i, float* dx) {
  const Range rows = outputs_of(i, o.window_h, o.stride_h, o.pad_h, o.p);
  for (int j = 0; j < o.w; ++j) {
    const float* value = x + (int64_t{i} * o.w + j) * o.c;
    float* sum = dx + int64_t{j} * o.c;
    bool first = true;
    for (int p = rows.begin; p < rows.end; ++p) {
      for (int q = columns[j].begin; q < columns[j].end; ++q) {
        const float* largest = y + (int64_t{p} * o.q + q) * o.c;
        const float* gradient = dy + (int64_t{p} * o.q + q) * o.c;
        if (first) {
#pragma omp simd
          for (int c = 0; c < o.c; ++c) sum[c] = value[c] == largest[c] ? gradient[c] : 0.0f;
        } else {
#pragma omp simd
          for (int c = 0; c < o.c; ++c) sum[c] += value[c] == largest[c] ? gradient[c] : 0.0f;
        }
        first = false;
      }
    }
    if (first) std::memset(sum, 0, o.c * sizeof(float));
  }
}

CCONVNET_CLONES void avgpool_backward_row(const PoolProblem& o, const float* dy, int i, float* dx) {
  const Range rows = outputs_of(i, o.window_h, o.stride_h, o.pad_h, o.p);
  for (int j = 0; j < o.w; ++j) {
    const Range columns = outputs_of(j, o.window_w, o.stride_w, o.pad_w, o.q);
    float* sum = dx + int64_t{j} * o.c;
    std::memset(sum, 0, o.c * sizeof(float));
    for (int p = rows.begin; p < rows.end; ++p) {
      const int height = pixels_of(p, o.window_h, o.stride_h, o.pad_h, o.h).size();
      for (int q = columns.begin; q < columns.end; ++q) {
        const int width = pixels_of(q, o.window_w, o.stride_w, o.pad_w, o.w).size();
        const float* gradient = dy + (int64_t{p} * o.q + q) * o.c;
        const float count = static_cast<float>(int64_t{height} * width);
#pragma omp simd
        for (int c = 0; c < o.c; ++c) sum[c] += gradient[c] / count;
      }
    }
  }
}

// ---- launchers ------------------------------------------------------------------------------------------

// Calls row_function(part, n, row) for all rows of all images. Every element costs about a window of
// elements.
template <class Function>
void for_rows(const PoolProblem& o, int rows, int64_t elements, const Function& row_function) {
  parallel_ranges(int64_t{o.n} * rows, elements, [&](int part, int64_t begin, int64_t end) {
    for (int64_t item = begin; item < end; ++item) {
      row_function(part, item / rows, static_cast<int>(item % rows));
    }
  });
}

struct Strides {  // of an image and of a row
  int64_t x, y, x_row, y_row;
  explicit Strides(const PoolProblem& o)
      : x(int64_t{o.h} * o.w * o.c),
        y(int64_t{o.p} * o.q * o.c),
        x_row(int64_t{o.w} * o.c),
        y_row(int64_t{o.q} * o.c) {}
};

// Elements that a row of outputs reads.
int64_t forward_cost(const PoolProblem& o) {
  const int64_t window = int64_t{std::min(o.window_h, o.h)} * std::min(o.window_w, o.w);
  return std::min(int64_t{o.q} * o.c * window, kGrain * 64);
}

// An input pixel is held by window / stride windows along each axis.
int64_t backward_cost(const PoolProblem& o) {
  const int64_t windows =
      int64_t{detail::ceil_div(o.window_h, o.stride_h)} * detail::ceil_div(o.window_w, o.stride_w);
  return std::min(int64_t{o.w} * o.c * std::min(2 * windows + 1, kGrain), kGrain * 64);
}

}  // namespace

void maxpool_forward(const PoolProblem& problem, const float* x, float* y, Stream) {
  const Strides stride(problem);
  const int64_t cost = forward_cost(problem);
  std::vector<float> columns(stride.x_row * parallel_parts(int64_t{problem.n} * problem.p, cost));
  for_rows(problem, problem.p, cost, [&](int part, int64_t n, int p) {
    maxpool_forward_row(problem, x + n * stride.x, p, columns.data() + part * stride.x_row,
                        y + n * stride.y + p * stride.y_row);
  });
}

void maxpool_backward(const PoolProblem& problem, const float* x, const float* y, const float* dy, float* dx,
                      Stream) {
  const Strides stride(problem);
  std::vector<Range> columns;
  for (int j = 0; j < problem.w; ++j) {
    columns.push_back(outputs_of(j, problem.window_w, problem.stride_w, problem.pad_w, problem.q));
  }
  for_rows(problem, problem.h, backward_cost(problem), [&](int, int64_t n, int i) {
    maxpool_backward_row(problem, columns.data(), x + n * stride.x, y + n * stride.y, dy + n * stride.y, i,
                         dx + n * stride.x + i * stride.x_row);
  });
}

void avgpool_forward(const PoolProblem& problem, const float* x, float* y, Stream) {
  const Strides stride(problem);
  for_rows(problem, problem.p, forward_cost(problem), [&](int, int64_t n, int p) {
    avgpool_forward_row(problem, x + n * stride.x, p, y + n * stride.y + p * stride.y_row);
  });
}

void avgpool_backward(const PoolProblem& problem, const float* dy, float* dx, Stream) {
  const Strides stride(problem);
  for_rows(problem, problem.h, backward_cost(problem), [&](int, int64_t n, int i) {
    avgpool_backward_row(problem, dy + n * stride.y, i, dx + n * stride.x + i * stride.x_row);
  });
}

}  // namespace cconvnet
