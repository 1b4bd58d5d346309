// Local response normalisation of single elements where a window's sum of squares overflows, or d^(-beta-1)
// underflows.
//
// With r = d^(-1/2), y is (x r) r^(2 beta - 1), and the gradient's second part a sum of dy_j d_j^-beta (x_j
// r_j) (x_i r_j). Each factor is a float even where d is not. The kernels give NaN where d is not finite, and
// then call these functions. Products that are added to something are written as fmaf: the same bits in every
// kernel that calls them.
#pragma once

#include <cfloat>
#include <cmath>

#include "core/bfloat16.h"
#include "core/host_device.h"
#include "problem.h"

namespace cconvnet {

// Beyond it d^-1.75 is not a normal float.
constexpr float kLrnMaxD = 1e21f;

// The elements of one window or, transposed, those whose windows contain an element: rows, columns and
// channels of its image.
struct LrnBox {
  int image, h_begin, h_end, w_begin, w_end, c_begin, c_end;

  static CCONVNET_HOST_DEVICE LrnBox of(const LrnProblem& problem, int element, bool transposed) {
    const int half = problem.size / 2, other_half = problem.size - 1 - half;
    const int before = transposed ? other_half : half, after = transposed ? half : other_half;
    const int c = element % problem.c, w = element / problem.c % problem.w,
              h = element / problem.c / problem.w % problem.h;
    LrnBox box{element - ((h * problem.w + w) * problem.c + c), h, h + 1, w, w + 1, c, c + 1};
    if (problem.region == LrnRegion::same_map) {
      clip(h, before, after, 0, problem.h, box.h_begin, box.h_end);
      clip(w, before, after, 0, problem.w, box.w_begin, box.w_end);
    } else {
      const int channels = problem.c / problem.groups, group = c / channels * channels;
      clip(c, before, after, group, group + channels, box.c_begin, box.c_end);
    }
    return box;
  }

  template <class Function>
  CCONVNET_HOST_DEVICE void for_each(const LrnProblem& problem, const Function& function) const {
    for (int h = h_begin; h < h_end; ++h) {
      for (int w = w_begin; w < w_end; ++w) {
        for (int c = c_begin; c < c_end; ++c) function(image + (h * problem.w + w) * problem.c + c);
      }
    }
  }

 private:
  static CCONVNET_HOST_DEVICE void clip(int center, int before, int after, int least, int end, int& from,
                                        int& to) {
    from = center - before > least ? center - before : least;
    to = after < end - center ? center + after + 1 : end;
  }
};

// d^(-1/2) of an element.
template <class T>
CCONVNET_HOST_DEVICE float lrn_inverse_root(const LrnProblem& problem, const T* x, int element) {
  constexpr float kDown =
      1.0f / (1ull << 34) / (1ull << 34);  // its square takes the square of any float down
  const LrnBox box = LrnBox::of(problem, element, false);
  float sum = 0.0f, scaled_sum = 0.0f;
  box.for_each(problem, [&](int i) {
    const float value = to_float(x[i]), scaled = kDown * value;
    sum = fmaf(value, value, sum);
    scaled_sum = fmaf(scaled, scaled, scaled_sum);
  });
  const float d = fmaf(problem.alpha, sum, problem.k);
  if (d <= FLT_MAX) return 1.0f / sqrtf(d);
  return kDown / sqrtf(fmaf(problem.alpha, scaled_sum, problem.k * kDown * kDown));
}

// value * d^-beta, for the r of a window that may contain `value`.
CCONVNET_HOST_DEVICE float lrn_times_power(const LrnProblem& problem, float value, float r) {
  return value * r * (problem.beta == 0.75f ? sqrtf(r) : powf(r, 2.0f * problem.beta - 1.0f));
}

template <class T>
CCONVNET_HOST_DEVICE float lrn_extreme_y(const LrnProblem& problem, const T* x, int element) {
  return lrn_times_power(problem, to_float(x[element]), lrn_inverse_root(problem, x, element));
}

// gradient(i) is dy of element i.
template <class T, class Gradient>
CCONVNET_HOST_DEVICE float lrn_extreme_dx(const LrnProblem& problem, const T* x, int element,
                                          const Gradient& gradient) {
  const float own = to_float(x[element]);
  float sum = 0.0f;
  LrnBox::of(problem, element, true).for_each(problem, [&](int i) {
    const float r = lrn_inverse_root(problem, x, i);
    sum = fmaf(lrn_times_power(problem, gradient(i), r) * (to_float(x[i]) * r), own * r, sum);
  });
  const float part = lrn_times_power(problem, gradient(element), lrn_inverse_root(problem, x, element));
  return fmaf(-2.0f * problem.alpha * problem.beta, sum, part);
}

}  // namespace cconvnet
