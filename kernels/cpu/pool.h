// What max pooling is made of, here and behind a normalisation (lrn_maxpool.cpp).
#pragma once

#include <algorithm>
#include <cstdint>
#include <vector>

#include "bfloat16.h"
#include "larger.h"
#include "parallel.h"
#include "problem.h"

namespace cconvnet {

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

// Elements that a row of outputs reads.
inline int64_t pool_forward_cost(const PoolProblem& o) {
  const int64_t window = int64_t{std::min(o.window_h, o.h)} * std::min(o.window_w, o.w);
  return std::min(int64_t{o.q} * o.c * window, kGrain * 64);
}

// And a row of inputs: a pixel is held by window / stride windows along each axis.
inline int64_t pool_backward_cost(const PoolProblem& o) {
  const int64_t windows =
      int64_t{detail::ceil_div(o.window_h, o.stride_h)} * detail::ceil_div(o.window_w, o.stride_w);
  return std::min(int64_t{o.w} * o.c * std::min(2 * windows + 1, kGrain), kGrain * 64);
}

// The outputs whose windows hold each pixel of a row. Worked out once: a division for every pixel would take
// as long as its channels.
inline std::vector<Range> outputs_of_columns(const PoolProblem& o) {
  std::vector<Range> columns;
  for (int j = 0; j < o.w; ++j) columns.push_back(outputs_of(j, o.window_w, o.stride_w, o.pad_w, o.q));
  return columns;
}

// to[i] = the largest at i of the arrays piece(j) of `count` values, for the j of `range`.
template <class To, class Piece>
inline __attribute__((always_inline)) void largest_of(Range range, const Piece& piece, int64_t count,
                                                      To* to) {
  // Two more at a time; where one is missing, the last one stands twice, which changes nothing.
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
// ahead of, then along the row. row(i) is where row i of the image lies.
template <class T, class Row>
inline __attribute__((always_inline)) void maxpool_row(const PoolProblem& o, const Row& row, int p,
                                                       float* column, T* y) {
  largest_of(pixels_of(p, o.window_h, o.stride_h, o.pad_h, o.h), row, int64_t{o.w} * o.c, column);
  const auto pixel = [&](int j) { return column + int64_t{j} * o.c; };
  for (int q = 0; q < o.q; ++q) {
    largest_of(pixels_of(q, o.window_w, o.stride_w, o.pad_w, o.w), pixel, o.c, y + int64_t{q} * o.c);
  }
}

// The windows that hold one pixel, and their maxima y and gradients dy[P, Q, C] of one image.
template <class T>
struct Windows {
  const T *y, *dy;
  Range rows, columns;
  int q, c;

  // to[i] = the sum of dy where y equals values[i], of the `count` channels from `channel` on.
  template <class From, class To>
  inline __attribute__((always_inline)) void gradient(int channel, int count, const From* values,
                                                      To* to) const {
    // In most networks a pixel is in one window, two or four; the inner loop is then one of arithmetic alone.
    const int windows = rows.size() * columns.size();
    if (windows == 1) return gradient_of<1>(channel, count, values, to);
    if (windows == 2) return gradient_of<2>(channel, count, values, to);
    if (windows == 4) return gradient_of<4>(channel, count, values, to);
    for (int i = 0; i < count; ++i) {
      float sum = 0.0f;
      for (int window = 0; window < windows; ++window) {
        const int64_t offset = offset_of(window) + channel + i;
        sum += to_float(y[offset]) == to_float(values[i]) ? to_float(dy[offset]) : 0.0f;
      }
      to[i] = from_float<To>(sum);
    }
  }

 private:
  int64_t offset_of(int window) const {
    const int i = rows.begin + window / columns.size(), j = columns.begin + window % columns.size();
    return (int64_t{i} * q + j) * c;
  }

  template <int WINDOWS, class From, class To>
  inline __attribute__((always_inline)) void gradient_of(int channel, int count, const From* values,
                                                         To* to) const {
    const T *largest[WINDOWS], *gradients[WINDOWS];
    for (int window = 0; window < WINDOWS; ++window) {
      largest[window] = y + offset_of(window) + channel;
      gradients[window] = dy + offset_of(window) + channel;
    }
#pragma omp simd
    for (int i = 0; i < count; ++i) {
      const float value = to_float(values[i]);
      float sum = 0.0f;
#pragma GCC unroll 4
      for (int window = 0; window < WINDOWS; ++window) {
        sum += to_float(largest[window][i]) == value ? to_float(gradients[window][i]) : 0.0f;
      }
      to[i] = from_float<To>(sum);
    }
  }
};

}  // namespace cconvnet
