// Functions shared by the normalisations: powers of d = k + alpha * sum, and sums over windows in one map.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <type_traits>

#include "lrn_extremes.h"
#include "parallel.h"

namespace cconvnet {

// d^-beta and d^(-beta-1), of a number or of the lanes of a vector. NaN where d is infinite, and for LRN
// where the latter would underflow: LRN recomputes such elements by lrn_extremes.h.
template <class Value>
struct Powers {
  Value scale, steeper;
};

template <class Value>
inline __attribute__((always_inline)) Value square_root(Value x) {
  constexpr int kLanes = sizeof x / sizeof(float);
  float lanes[kLanes];
  std::memcpy(lanes, &x, sizeof x);
#pragma omp simd
  for (int i = 0; i < kLanes; ++i) lanes[i] = std::sqrt(lanes[i]);
  std::memcpy(&x, lanes, sizeof x);
  return x;
}

// AlexNet's beta, 3/4, needs two square roots instead of a power. (Newton's iteration for d^-1/4 needs
// neither roots nor divisions, but was slower on Zen 5: its steps wait for each other.)
template <bool LRN, class Value>
inline __attribute__((always_inline)) Powers<Value> three_quarters(Value d) {
  constexpr float kToInfinity = LRN ? std::numeric_limits<float>::max() / kLrnMaxD : 1.0f;
  const Value inverse_root = 1.0f / square_root(d);
  const Value scale = inverse_root * square_root(inverse_root) + 0.0f * (kToInfinity * d);
  return {scale, scale * (inverse_root * inverse_root)};
}

template <bool LRN>
inline Powers<float> any_power(float d, float beta) {
  const float scale = std::pow(d, -beta) + 0.0f * d, steeper = scale / d;
  constexpr float kNaN = std::numeric_limits<float>::quiet_NaN();
  if (LRN && !(steeper >= std::numeric_limits<float>::min())) return {kNaN, kNaN};
  return {scale, steeper};
}

// scale[i] = d^-beta and, if STEEPER, steeper[i] = d^(-beta-1), for d = k + alpha * sum[i]. Either may be the
// array `sum`.
template <bool STEEPER, class Problem>
inline __attribute__((always_inline)) void powers(const Problem& problem, int count, const float* sum,
                                                  float* scale, float* steeper) {
  constexpr bool LRN = std::is_same_v<Problem, LrnProblem>;
  const float k = problem.k, alpha = problem.alpha, beta = problem.beta;
  if (beta == 0.75f) {
#pragma omp simd
    for (int i = 0; i < count; ++i) {
      const Powers<float> result = three_quarters<LRN>(k + alpha * sum[i]);
      scale[i] = result.scale;
      if (STEEPER) steeper[i] = result.steeper;
    }
  } else {
    for (int i = 0; i < count; ++i) {
      const Powers<float> result = any_power<LRN>(k + alpha * sum[i], beta);
      scale[i] = result.scale;
      if (STEEPER) steeper[i] = result.steeper;
    }
  }
}

// Returns whether any of `count` values is NaN.
inline __attribute__((always_inline)) bool has_nan(const float* values, int64_t count) {
  float sum = 0.0f;
#pragma omp simd reduction(+ : sum)
  for (int64_t i = 0; i < count; ++i) sum += 0.0f * values[i];
  return std::isnan(sum);
}

// ---- windows in the same map ----------------------------------------------------------------------------

// The window's part inside [0, limit) around `center`.
inline Range clipped(int center, int before, int after, int limit) {
  return {std::max(0, center - before),
          static_cast<int>(std::min<int64_t>(limit, int64_t{center} + after + 1))};
}

// sum[c] over the clipped window around pixel (i, j) of image[h,w,c], of the values or their squares.
template <bool SQUARED, class Problem>
inline __attribute__((always_inline)) void map_sums(const Problem& problem, const float* image, int i, int j,
                                                    int before, int after, float* sum) {
  const Range rows = clipped(i, before, after, problem.h), columns = clipped(j, before, after, problem.w);
  std::memset(sum, 0, problem.c * sizeof(float));
  for (int r = rows.begin; r < rows.end; ++r) {
    for (int s = columns.begin; s < columns.end; ++s) {
      const float* values = image + (int64_t{r} * problem.w + s) * problem.c;
#pragma omp simd
      for (int c = 0; c < problem.c; ++c) sum[c] += SQUARED ? values[c] * values[c] : values[c];
    }
  }
}

// The work of one image in elements: a window per element.
template <class Problem>
int64_t map_cost(const Problem& problem) {
  const int64_t rows = std::min(problem.size, problem.h), columns = std::min(problem.size, problem.w);
  return int64_t{problem.h} * problem.w * problem.c * std::min<int64_t>(rows * columns, kGrain);
}

}  // namespace cconvnet
