// The parts of pooling, for pool.cpp, unpool.cpp and for pooling after a normalisation (lrn_maxpool.cpp).
#pragma once

#include <algorithm>
#include <cstdint>
#include <vector>

#include "lanes.h"
#include "core/larger.h"
#include "parallel.h"
#include "problem.h"

namespace cconvnet {

// The pixels of output `p`'s window along one axis, clipped to the image.
inline Range pixels_of(int p, int window, int stride, int pad, int size) {
  const int first = p * stride - pad;
  return {std::max(first, 0), std::min(first + window, size)};
}

// The outputs along one axis whose windows contain pixel `i`; with a negative padding the first pixels are in
// none.
inline Range outputs_of(int i, int window, int stride, int pad, int outputs) {
  const int next = i + pad + stride;
  return {std::max(next - window, 0) / stride, std::min(std::max(next, 0) / stride, outputs)};
}

// Calls row_function(buffer, n, row) for all rows of all images; `buffer` is a thread's own, of `buffer_size`
// floats.
template <class Function>
void for_rows(const PoolProblem& problem, int rows, int64_t cost, int64_t buffer_size,
              const Function& row_function) {
  std::vector<float> buffers(buffer_size * parallel_parts(int64_t{problem.n} * rows, cost));
  parallel_ranges(int64_t{problem.n} * rows, cost, [&](int part, int64_t begin, int64_t end) {
    for (int64_t item = begin; item < end; ++item) {
      row_function(buffers.data() + part * buffer_size, item / rows, static_cast<int>(item % rows));
    }
  });
}

struct Strides {  // of an image and of a row
  int64_t x, y, x_row, y_row;
  explicit Strides(const PoolProblem& problem)
      : x(int64_t{problem.h} * problem.w * problem.c),
        y(int64_t{problem.p} * problem.q * problem.c),
        x_row(int64_t{problem.w} * problem.c),
        y_row(int64_t{problem.q} * problem.c) {}
};

// The number of elements that a row of outputs reads.
inline int64_t pool_forward_cost(const PoolProblem& problem) {
  const int64_t window =
      int64_t{std::min(problem.window_h, problem.h)} * std::min(problem.window_w, problem.w);
  return std::min(int64_t{problem.q} * problem.c * window, kGrain * 64);
}

// The number that a row of inputs reads: a pixel is in window / stride windows along each axis.
inline int64_t pool_backward_cost(const PoolProblem& problem) {
  const int64_t windows = int64_t{detail::ceil_div(problem.window_h, problem.stride_h)} *
                          detail::ceil_div(problem.window_w, problem.stride_w);
  return std::min(int64_t{problem.w} * problem.c * std::min(2 * windows + 1, kGrain), kGrain * 64);
}

// The outputs whose windows contain each pixel of a row. Computed once: a division for every pixel would take
// as long as its channels.
inline std::vector<Range> outputs_of_columns(const PoolProblem& problem) {
  std::vector<Range> columns;
  for (int j = 0; j < problem.w; ++j)
    columns.push_back(outputs_of(j, problem.window_w, problem.stride_w, problem.pad_w, problem.q));
  return columns;
}

// to[i] = the largest at i of the arrays piece(j) of `count` values, for the j of `range`.
template <class To, class Piece>
inline __attribute__((always_inline)) void largest_of(Range range, const Piece& piece, int64_t count,
                                                      To* to) {
  // Two more at a time; where one is missing the last one is used twice, which changes nothing.
  const auto add = [&](const auto* so_far, int next) {
    const auto *a = piece(std::min(next, range.end - 1)), *b = piece(std::min(next + 1, range.end - 1));
#pragma omp simd
    for (int64_t i = 0; i < count; ++i) {
      to[i] = from_float<To>(larger(to_float(b[i]), larger(to_float(a[i]), to_float(so_far[i]))));
    }
  };
  add(piece(range.begin), range.begin + 1);
  for (int next = range.begin + 3; next < range.end; next += 2) add(static_cast<const To*>(to), next);
}

// One row of outputs: first down the columns, into `column`[W, C], in long loops that the processor reads
// ahead of, then along the row. row(i) returns the address of row i of the image.
template <class T, class Row>
inline __attribute__((always_inline)) void maxpool_row(const PoolProblem& problem, const Row& row, int p,
                                                       float* column, T* y) {
  largest_of(pixels_of(p, problem.window_h, problem.stride_h, problem.pad_h, problem.h), row,
             int64_t{problem.w} * problem.c, column);
  const auto pixel = [&](int j) { return column + int64_t{j} * problem.c; };
  for (int q = 0; q < problem.q; ++q) {
    largest_of(pixels_of(q, problem.window_w, problem.stride_w, problem.pad_w, problem.w), pixel, problem.c,
               y + int64_t{q} * problem.c);
  }
}

// The windows that contain one pixel, and one image's y and dy[P, Q, C].
template <class T>
struct Windows {
  const T *y, *dy;
  Range rows, columns;
  int q, c;

  int64_t offset_of(int row, int column) const { return (int64_t{row} * q + column) * c; }
};

// dy of a window where y equals `value`, of `count` channels; y and dy are those of the first.
template <class T>
inline __attribute__((always_inline)) Lanes gradient_of_window(const T* y, const T* dy, int count,
                                                               const Lanes& value) {
  return where_equal(load(y, count), value, load(dy, count));
}

// The gradient of a pixel, as a function of a channel, how many from there on, and their values.
template <class T>
struct GradientOfAny {
  const Windows<T>& windows;

  inline __attribute__((always_inline)) Lanes operator()(int channel, int count, const Lanes& value) const {
    Lanes sum = {};
    for (int row = windows.rows.begin; row < windows.rows.end; ++row) {
      for (int column = windows.columns.begin; column < windows.columns.end; ++column) {
        const int64_t offset = windows.offset_of(row, column) + channel;
        sum += gradient_of_window(windows.y + offset, windows.dy + offset, count, value);
      }
    }
    return sum;
  }
};

template <int ROWS, int COLUMNS, class T>
struct GradientOf {
  const T *y[ROWS * COLUMNS], *dy[ROWS * COLUMNS];

  explicit GradientOf(const Windows<T>& windows) {
    for (int i = 0; i < ROWS * COLUMNS; ++i) {
      const int64_t offset =
          windows.offset_of(windows.rows.begin + i / COLUMNS, windows.columns.begin + i % COLUMNS);
      y[i] = windows.y + offset;
      dy[i] = windows.dy + offset;
    }
  }

  inline __attribute__((always_inline)) Lanes operator()(int channel, int count, const Lanes& value) const {
    Lanes sum = {};
    for (int i = 0; i < ROWS * COLUMNS; ++i)
      sum += gradient_of_window(y[i] + channel, dy[i] + channel, count, value);
    return sum;
  }
};

// Calls work(the pixel's gradient). Nearly everywhere the stride is about half the window, so a pixel is in
// one window or two along each axis, and `work` is compiled for each number.
template <class T, class Work>
inline __attribute__((always_inline)) void with_gradient(const Windows<T>& windows, const Work& work) {
  const int rows = windows.rows.size(), columns = windows.columns.size();
  if (rows == 1 && columns == 1) return work(GradientOf<1, 1, T>(windows));
  if (rows == 1 && columns == 2) return work(GradientOf<1, 2, T>(windows));
  if (rows == 2 && columns == 1) return work(GradientOf<2, 1, T>(windows));
  if (rows == 2 && columns == 2) return work(GradientOf<2, 2, T>(windows));
  work(GradientOfAny<T>{windows});
}

}  // namespace cconvnet
