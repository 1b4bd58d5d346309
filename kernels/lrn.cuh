// Arguments and formulas shared by the kernels of local response normalisation, alone or with pooling after
// it.
//
// Products that are added to something are written as fmaf, and t's last product is kept from becoming part
// of one. So every kernel gets the same bits, whatever its compiler would choose.
#pragma once

#include "lrn_extremes.h"
#include "core/vector.cuh"

namespace cconvnet {

// d^-beta and d^(-beta-1).
struct LrnScale {
  float power, power_over_d;
};

constexpr float kLrnUsualBeta = 0.75f;  // of every published network

// For the usual beta, d^(-1/2) * (d^(1/2))^(-1/2): two roots instead of a logarithm and an exponential. The
// first root's error enters twice, with opposite signs, and half of it cancels. NaN where d is too large, for
// lrn_extremes.h.
__device__ __forceinline__ LrnScale lrn_usual_scale(float d) {
  d = d > kLrnMaxD ? NAN : d;
  const float root = rsqrtf(d);
  const float power = root * rsqrtf(d * root);
  return {power, power * root * root};
}

struct LrnArguments {
  LrnProblem problem;
  float gradient_factor;                   // 2 alpha beta
  int vectors, group_vectors;              // of the whole tensor, of a group in one pixel
  Divider c_div, group_div, w_div, h_div;  // by the vectors of a pixel and of a group, by W and H

  LrnArguments(const LrnProblem& problem, int width)
      : problem(problem),
        gradient_factor(2.0f * problem.alpha * problem.beta),
        vectors(problem.count() / width),
        // A group narrower than a vector exists only in the same map, where groups do not matter.
        group_vectors(std::max(1, problem.c / problem.groups / width)),
        c_div(problem.c / width),
        group_div(group_vectors),
        w_div(problem.w),
        h_div(problem.h) {}

  // From the sum of squares over an element's window. Kernels for the usual beta alone are much shorter.
  template <bool USUAL_BETA = false>
  __device__ __forceinline__ LrnScale scale(float sum) const {
    const float d = fmaf(problem.alpha, sum, problem.k);
    if (USUAL_BETA || problem.beta == kLrnUsualBeta) return lrn_usual_scale(d);
    const float power = powf(d, -problem.beta), power_over_d = __fdividef(power, d);
    return power_over_d >= FLT_MIN ? LrnScale{power, power_over_d} : LrnScale{NAN, NAN};
  }
};

// The term that element x with gradient dy adds to the gradients of its window.
__device__ __forceinline__ float lrn_t(float x, float dy, const LrnScale& scale) {
  return __fmul_rn(dy * x, scale.power_over_d);
}

// The gradient by x from its first part, dy * d^-beta, and the sum of t over the windows that contain x.
__device__ __forceinline__ float lrn_dx(const LrnArguments& args, float part, float x, float sum) {
  return fmaf(-(args.gradient_factor * x), sum, part);
}

// Returns whether an element must be recomputed by lrn_extremes.h.
template <int WIDTH>
__device__ __forceinline__ bool lrn_has_nan(const Vector<WIDTH>& value) {
  bool found = false;
#pragma unroll
  for (int i = 0; i < WIDTH; ++i) found |= value.lane[i] != value.lane[i];
  return found;
}

// Recomputes y and dx of `count` elements from `first` on, where `out` is NaN. The loop is not unrolled: it
// must not cost registers.
template <class T>
__device__ __forceinline__ void lrn_recompute_y(const LrnProblem& problem, const T* x, int first, int count,
                                                T* out) {
#pragma unroll 1
  for (int i = 0; i < count; ++i) {
    if (to_float(out[i]) != to_float(out[i])) out[i] = from_float<T>(lrn_extreme_y(problem, x, first + i));
  }
}

template <class T>
__device__ __forceinline__ void lrn_recompute_dx(const LrnProblem& problem, const T* x, const T* dy,
                                                 int first, int count, T* out) {
#pragma unroll 1
  for (int i = 0; i < count; ++i) {
    if (to_float(out[i]) == to_float(out[i])) continue;
    out[i] = from_float<T>(lrn_extreme_dx(problem, x, first + i, [&](int j) { return to_float(dy[j]); }));
  }
}

// ---- across channels, small windows ---------------------------------------------------------------------

constexpr int kLrnReach = 4;  // channels that a window reaches beyond its own vector, at most

// Returns whether the kernels for windows of 3, 5, 7 or 9 channels and the usual beta serve arrays of any
// type.
inline bool lrn_small_window(const LrnProblem& problem) {
  return problem.region == LrnRegion::across_channels && problem.beta == kLrnUsualBeta &&
         problem.c / problem.groups % kVectorWidth<bfloat16> == 0 && problem.size % 2 == 1 &&
         problem.size >= 3 && problem.size <= 2 * kLrnReach + 1;
}

// Calls function(std::integral_constant<int, size>()) for such a window.
template <class Function>
void dispatch_lrn_size(int size, const Function& function) {
  switch (size) {
    case 3:
      return function(std::integral_constant<int, 3>());
    case 5:
      return function(std::integral_constant<int, 5>());
    case 7:
      return function(std::integral_constant<int, 7>());
    case 9:
      return function(std::integral_constant<int, 9>());
  }
}

// The channels that the windows around a vector read: those before it and after it in its group, zero where
// there are none.
template <int WIDTH>
struct LrnNeighbourhood {
  Vector<kLrnReach> before;
  Vector<WIDTH> own;
  Vector<kLrnReach> after;
};

// The sum over each window, of the values or of their squares; the window of channel c is
// [c - LEFT, c + RIGHT].
template <int LEFT, int RIGHT, bool SQUARED, int WIDTH>
__device__ __forceinline__ Vector<WIDTH> lrn_window_sums(const LrnNeighbourhood<WIDTH>& values) {
  static_assert(LEFT <= kLrnReach && RIGHT <= kLrnReach, "a window reaches no further than is known");
  float row[kLrnReach + WIDTH + kLrnReach];
#pragma unroll
  for (int i = 0; i < kLrnReach; ++i) {
    row[i] = values.before.lane[i];
    row[kLrnReach + WIDTH + i] = values.after.lane[i];
  }
#pragma unroll
  for (int i = 0; i < WIDTH; ++i) row[kLrnReach + i] = values.own.lane[i];
  Vector<WIDTH> sums = zeros<WIDTH>();
#pragma unroll
  for (int i = 0; i < WIDTH; ++i) {
#pragma unroll
    for (int j = kLrnReach + i - LEFT; j <= kLrnReach + i + RIGHT; ++j) {
      sums.lane[i] = SQUARED ? fmaf(row[j], row[j], sums.lane[i]) : sums.lane[i] + row[j];
    }
  }
  return sums;
}

// The presence of a neighbour before and after a vector in its group.
struct LrnSides {
  bool before, after;

  static __device__ __forceinline__ LrnSides of(const LrnArguments& args, int vector) {
    int position;
    args.group_div.divide(vector, position);
    return {position > 0, position + 1 < args.group_vectors};
  }
};

// The sum of squares over the window of each channel of a vector, which begins at `x`; `own` is its values.
template <int SIZE, bool ALIGNED, int WIDTH, class T>
__device__ __forceinline__ Vector<WIDTH> lrn_squares(const T* x, const LrnSides& sides,
                                                     const Vector<WIDTH>& own) {
  const LrnNeighbourhood<WIDTH> values = {
      sides.before ? load_from<kLrnReach, ALIGNED>(x - kLrnReach) : zeros<kLrnReach>(), own,
      sides.after ? load_from<kLrnReach, ALIGNED>(x + WIDTH) : zeros<kLrnReach>()};
  return lrn_window_sums<SIZE / 2, SIZE - 1 - SIZE / 2, true>(values);
}

// ---- across channels, any window ------------------------------------------------------------------------

// The channels of a window, [begin, end).
struct LrnChannels {
  int begin, end;

  // The window of channel c or, transposed, the channels whose windows contain it. `args` has width 1.
  static __device__ __forceinline__ LrnChannels around(const LrnArguments& args, int c, bool transposed) {
    const LrnProblem& problem = args.problem;
    const int half = problem.size / 2, other_half = problem.size - 1 - half;
    const int group = args.group_div.quotient(c) * args.group_vectors;
    return {max(c - (transposed ? other_half : half), group),
            min(c + (transposed ? half : other_half) + 1, group + args.group_vectors)};
  }
};

}  // namespace cconvnet
