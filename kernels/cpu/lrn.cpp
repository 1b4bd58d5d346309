// Local response normalisation. Across channels a thread takes a run of pixels and, for each group of
// channels of each, sums shifted copies of the squares, so that the loop over channels vectorises. In the
// same map the copies are shifted by pixels. Windows are always summed afresh: a running sum would lose
// digits.
#include <cmath>

#include "api.h"
#include "parallel.h"

namespace cconvnet {
namespace {

// The window of output i covers inputs i - before to i + after.
struct Window {
  int before, after;
};

}  // namespace

// factor = d^-beta.
CCONVNET_CLONES void cpu_lrn_power(const float* d, float beta, float* factor, int count) {
  if (beta == 0.75f) {
#pragma omp simd
    for (int i = 0; i < count; ++i) {
      const float root = sqrtf(d[i]);
      factor[i] = 1.0f / (root * sqrtf(root));
    }
  } else {
    for (int i = 0; i < count; ++i) factor[i] = powf(d[i], -beta);
  }
}

// sum[i] += values[i + shift]^2, or without the square.
CCONVNET_CLONES void cpu_lrn_add_squares(const float* values, float* sum, int count) {
#pragma omp simd
  for (int i = 0; i < count; ++i) sum[i] += values[i] * values[i];
}

CCONVNET_CLONES void cpu_lrn_add(const float* values, float* sum, int count) {
#pragma omp simd
  for (int i = 0; i < count; ++i) sum[i] += values[i];
}

CCONVNET_CLONES void cpu_lrn_denominator(float k, float alpha, float* sum, int count) {
#pragma omp simd
  for (int i = 0; i < count; ++i) sum[i] = k + alpha * sum[i];
}

CCONVNET_CLONES void cpu_lrn_scale(const float* x, const float* factor, float* y, int count) {
#pragma omp simd
  for (int i = 0; i < count; ++i) y[i] = x[i] * factor[i];
}

// ratio = dy * x * d^(-beta-1), the part of a gradient that a window passes on.
CCONVNET_CLONES void cpu_lrn_ratio(const float* x, const float* dy, const float* d, const float* factor,
                                   float* ratio, int count) {
#pragma omp simd
  for (int i = 0; i < count; ++i) ratio[i] = dy[i] * x[i] * factor[i] / d[i];
}

CCONVNET_CLONES void cpu_lrn_gradient(const float* x, const float* dy, const float* factor, const float* sum,
                                      float two_alpha_beta, float* dx, int count) {
#pragma omp simd
  for (int i = 0; i < count; ++i) dx[i] = dy[i] * factor[i] - two_alpha_beta * x[i] * sum[i];
}

namespace {

Window window_of(const LrnProblem& problem, int extent) {
  return {std::min(problem.size / 2, extent - 1), std::min(problem.size - 1 - problem.size / 2, extent - 1)};
}

// sum[i] = the sum over the window of i of values (or their squares), clipped to [0, count).
template <class Add>
void window_sums(const Add& add, const float* values, Window window, float* sum, int count) {
  std::fill(sum, sum + count, 0.0f);
  for (int shift = -window.before; shift <= window.after; ++shift) {
    const int first = std::max(0, -shift), last = std::min(count, count - shift);
    add(values + first + shift, sum + first, last - first);
  }
}

// ---- across channels ------------------------------------------------------------------------------------

constexpr int64_t kPixels = 64;  // what a thread takes at once

void across_forward(const LrnProblem& o, const float* x, float* y) {
  const int count = o.c / o.groups;
  const Window window = window_of(o, count);
  parallel_pieces(int64_t{o.n} * o.h * o.w * o.groups, kPixels, [&](int64_t begin, int64_t end) {
    float* const d = thread_scratch(2 * count);
    float* const factor = d + count;
    for (int64_t i = begin; i < end; ++i) {
      const float* const channels = x + i * count;
      window_sums(cpu_lrn_add_squares, channels, window, d, count);
      cpu_lrn_denominator(o.k, o.alpha, d, count);
      cpu_lrn_power(d, o.beta, factor, count);
      cpu_lrn_scale(channels, factor, y + i * count, count);
    }
  });
}

void across_backward(const LrnProblem& o, const float* x, const float* dy, float* dx) {
  const int count = o.c / o.groups;
  const Window window = window_of(o, count);
  const Window mirrored = {window.after, window.before};  // the outputs whose window holds an input
  parallel_pieces(int64_t{o.n} * o.h * o.w * o.groups, kPixels, [&](int64_t begin, int64_t end) {
    float* const d = thread_scratch(3 * count);
    float* const factor = d + count;
    float* const ratio = factor + count;
    for (int64_t i = begin; i < end; ++i) {
      const float* const channels = x + i * count;
      const float* const gradient = dy + i * count;
      window_sums(cpu_lrn_add_squares, channels, window, d, count);
      cpu_lrn_denominator(o.k, o.alpha, d, count);
      cpu_lrn_power(d, o.beta, factor, count);
      cpu_lrn_ratio(channels, gradient, d, factor, ratio, count);
      window_sums(cpu_lrn_add, ratio, mirrored, d, count);
      cpu_lrn_gradient(channels, gradient, factor, d, 2.0f * o.alpha * o.beta, dx + i * count, count);
    }
  });
}

// ---- in the same map ------------------------------------------------------------------------------------

// sum[c] = the sum over the square window around (h, w) of one image's values (or their squares).
template <class Add>
void square_sums(const Add& add, const LrnProblem& o, const float* image, int h, int w, Window rows,
                 Window columns, float* sum) {
  std::fill(sum, sum + o.c, 0.0f);
  for (int i = std::max(0, h - rows.before); i <= std::min(o.h - 1, h + rows.after); ++i) {
    for (int j = std::max(0, w - columns.before); j <= std::min(o.w - 1, w + columns.after); ++j) {
      add(image + (int64_t{i} * o.w + j) * o.c, sum, o.c);
    }
  }
}

void same_map_forward(const LrnProblem& o, const float* x, float* y) {
  const Window rows = window_of(o, o.h), columns = window_of(o, o.w);
  const int64_t image = int64_t{o.h} * o.w * o.c;
  parallel_for(int64_t{o.n} * o.h, [&](int64_t row) {
    float* const d = thread_scratch(2 * o.c);
    float* const factor = d + o.c;
    const int h = static_cast<int>(row % o.h);
    for (int w = 0; w < o.w; ++w) {
      square_sums(cpu_lrn_add_squares, o, x + row / o.h * image, h, w, rows, columns, d);
      cpu_lrn_denominator(o.k, o.alpha, d, o.c);
      cpu_lrn_power(d, o.beta, factor, o.c);
      const int64_t at = (row * o.w + w) * o.c;
      cpu_lrn_scale(x + at, factor, y + at, o.c);
    }
  });
}

void same_map_backward(const LrnProblem& o, const float* x, const float* dy, float* dx) {
  const Window rows = window_of(o, o.h), columns = window_of(o, o.w);
  const Window mirrored_rows = {rows.after, rows.before}, mirrored_columns = {columns.after, columns.before};
  const int64_t image = int64_t{o.h} * o.w * o.c;
  parallel_for(o.n, [&](int64_t n) {
    // Both of a whole image: every pixel's ratio must be known before the first window is summed.
    float* const factor = thread_scratch(2 * image);
    float* const ratio = factor + image;
    float* const d = thread_scratch(o.c, 1);
    const float* const x_image = x + n * image;
    const float* const dy_image = dy + n * image;
    for (int h = 0; h < o.h; ++h) {
      for (int w = 0; w < o.w; ++w) {
        const int64_t at = (int64_t{h} * o.w + w) * o.c;
        square_sums(cpu_lrn_add_squares, o, x_image, h, w, rows, columns, d);
        cpu_lrn_denominator(o.k, o.alpha, d, o.c);
        cpu_lrn_power(d, o.beta, factor + at, o.c);
        cpu_lrn_ratio(x_image + at, dy_image + at, d, factor + at, ratio + at, o.c);
      }
    }
    for (int h = 0; h < o.h; ++h) {
      for (int w = 0; w < o.w; ++w) {
        const int64_t at = (int64_t{h} * o.w + w) * o.c;
        square_sums(cpu_lrn_add, o, ratio, h, w, mirrored_rows, mirrored_columns, d);
        cpu_lrn_gradient(x_image + at, dy_image + at, factor + at, d, 2.0f * o.alpha * o.beta,
                         dx + n * image + at, o.c);
      }
    }
  });
}

}  // namespace

void lrn_forward(const LrnProblem& problem, const float* x, float* y, Stream) {
  if (problem.region == LrnRegion::across_channels) {
    across_forward(problem, x, y);
  } else {
    same_map_forward(problem, x, y);
  }
}

size_t lrn_backward_workspace(const LrnProblem&) {
  return 0;
}

void lrn_backward(const LrnProblem& problem, const float* x, const float* dy, float* dx, void*, Stream) {
  if (problem.region == LrnRegion::across_channels) {
    across_backward(problem, x, dy, dx);
  } else {
    same_map_backward(problem, x, dy, dx);
  }
}

}  // namespace cconvnet
