// Arguments and formulas shared by the kernels of local response normalisation, alone or with pooling after
// it.
//
// Products that are added to something are written as fmaf, and t's last product is kept from becoming part
// of one. So every kernel gets the same bits, whatever its compiler would choose.
#pragma once

#include "lrn_extremes.h"
#include "core/ptx.cuh"
#include "core/vector.cuh"

namespace cconvnet {

// d^-beta and 1 / d.
struct LrnScale {
  float power, inverse;
};

constexpr float kLrnUsualBeta = 0.75f;  // of every published network

// For the usual beta, d^(-1/2) * (d^(1/2))^(-1/2): two roots instead of a logarithm and an exponential. The
// first root's error enters twice, with opposite signs, and half of it cancels: with the roundings, the power's
// relative error is at most 2^-21.8. NaN where d is subnormal.
__device__ __forceinline__ LrnScale lrn_usual_scale(float d) {
  const float root = ptx::reciprocal_root(d);
  return {root * ptx::reciprocal_root(d * root), root * root};
}

// The scales of a vector. Where `extreme`, some are NaN: their d is too large, for lrn_extremes.h.
template <int WIDTH>
struct LrnScales {
  LrnScale lane[WIDTH];
  bool extreme;
};

struct LrnArguments {
  LrnProblem problem;
  float gradient_factor;                   // 2 alpha beta
  float usual_sum;                         // up to this sum of squares the usual formulas serve
  int vectors, group_vectors;              // of the whole tensor, of a group in one pixel
  Divider c_div, group_div, w_div, h_div;  // by the vectors of a pixel and of a group, by W and H

  LrnArguments(const LrnProblem& problem, int width)
      : problem(problem),
        gradient_factor(2.0f * problem.alpha * problem.beta),
        usual_sum(largest_usual_sum(problem)),
        vectors(problem.count() / width),
        // A group narrower than a vector exists only in the same map, where groups do not matter.
        group_vectors(std::max(1, problem.c / problem.groups / width)),
        c_div(problem.c / width),
        group_div(group_vectors),
        w_div(problem.w),
        h_div(problem.h) {}

  // From the sum of squares over an element's window.
  __device__ __forceinline__ LrnScale scale(float sum) const {
    const float d = fmaf(problem.alpha, sum, problem.k);
    if (problem.beta == kLrnUsualBeta) return d > kLrnMaxD ? LrnScale{NAN, NAN} : lrn_usual_scale(d);
    const float power = powf(d, -problem.beta), inverse = __fdividef(1.0f, d);
    return power * inverse >= FLT_MIN ? LrnScale{power, inverse} : LrnScale{NAN, NAN};
  }

  // The same for the usual beta and windows of SIZE neighbouring lanes: they are tested together, by a sum
  // that contains every square.
  template <int SIZE, int WIDTH>
  __device__ __forceinline__ LrnScales<WIDTH> usual_scales(const Vector<WIDTH>& sums) const {
    LrnScales<WIDTH> scales;
    float all = 0.0f;
#pragma unroll
    for (int i = 0; i < WIDTH; ++i) {
      scales.lane[i] = lrn_usual_scale(fmaf(problem.alpha, sums.lane[i], problem.k));
      if (i % SIZE == 0 || i == WIDTH - 1) all += sums.lane[i];
    }
    scales.extreme = !(all <= usual_sum);
    if (scales.extreme) {
#pragma unroll
      for (int i = 0; i < WIDTH; ++i) {
        if (fmaf(problem.alpha, sums.lane[i], problem.k) > kLrnMaxD) scales.lane[i] = {NAN, NAN};
      }
    }
    return scales;
  }

 private:
  // With a margin for the rounding of the sums. Negative where the formulas never serve.
  static float largest_usual_sum(const LrnProblem& problem) {
    if (problem.k < FLT_MIN || problem.k > kLrnMaxD) return -1.0f;
    return problem.alpha > 0 ? std::min(0.99f * (kLrnMaxD - problem.k) / problem.alpha, FLT_MAX) : FLT_MAX;
  }
};

// The term that element x adds to the gradients of its window, from dy * d^-beta.
__device__ __forceinline__ float lrn_t(float x, float part, const LrnScale& scale) {
  return __fmul_rn(part * x, scale.inverse);
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

// The same in the order of the channels.
template <int WIDTH>
struct LrnRow {
  float at[kLrnReach + WIDTH + kLrnReach];

  explicit __device__ __forceinline__ LrnRow(const LrnNeighbourhood<WIDTH>& values) {
#pragma unroll
    for (int i = 0; i < kLrnReach; ++i) {
      at[i] = values.before.lane[i];
      at[kLrnReach + WIDTH + i] = values.after.lane[i];
    }
#pragma unroll
    for (int i = 0; i < WIDTH; ++i) at[kLrnReach + i] = values.own.lane[i];
  }
};

// The sum of squares over each window; the window of channel c is [c - SIZE / 2, c + SIZE / 2].
template <int SIZE, int WIDTH>
__device__ __forceinline__ Vector<WIDTH> lrn_sums_of_squares(const LrnNeighbourhood<WIDTH>& values) {
  const LrnRow<WIDTH> row(values);
  Vector<WIDTH> sums = zeros<WIDTH>();
#pragma unroll
  for (int i = 0; i < WIDTH; ++i) {
#pragma unroll
    for (int j = kLrnReach + i - SIZE / 2; j <= kLrnReach + i + SIZE / 2; ++j) {
      sums.lane[i] = fmaf(row.at[j], row.at[j], sums.lane[i]);
    }
  }
  return sums;
}

// The sum of the values over each window. The windows share sums of two, four and eight neighbours: SIZE is
// their sum in the binary system.
template <int SIZE, int WIDTH>
__device__ __forceinline__ Vector<WIDTH> lrn_sums(const LrnNeighbourhood<WIDTH>& values) {
  LrnRow<WIDTH> row(values);  // later the sums of `length` neighbours, from each channel on
  Vector<WIDTH> sums;
  int begin = kLrnReach - SIZE / 2;  // of what the first window lacks
#pragma unroll
  for (int length = 1; length <= SIZE; length *= 2) {
    if (SIZE & length) {
#pragma unroll
      for (int i = 0; i < WIDTH; ++i) {
        sums.lane[i] = length == 1 ? row.at[begin + i] : sums.lane[i] + row.at[begin + i];
      }
      begin += length;
    }
#pragma unroll
    for (int i = 0; i + length < kLrnReach + WIDTH + kLrnReach; ++i) row.at[i] += row.at[i + length];
  }
  return sums;
}

// The presence of a neighbour before and after a vector in its group, 0 or 1.
struct LrnSides {
  int before, after;

  static __device__ __forceinline__ LrnSides of(const LrnArguments& args, int vector) {
    int position;
    args.group_div.divide(vector, position);
    return {ptx::in_register(position > 0), ptx::in_register(position + 1 < args.group_vectors)};
  }
};

// The sum of squares over the window of each channel of a vector, which begins at `x`; `own` is its values.
template <int SIZE, bool ALIGNED, int WIDTH, class T>
__device__ __forceinline__ Vector<WIDTH> lrn_squares(const T* x, const LrnSides& sides,
                                                     const Vector<WIDTH>& own) {
  return lrn_sums_of_squares<SIZE>(LrnNeighbourhood<WIDTH>{
      sides.before ? load_from<kLrnReach, ALIGNED>(x - kLrnReach) : zeros<kLrnReach>(), own,
      sides.after ? load_from<kLrnReach, ALIGNED>(x + WIDTH) : zeros<kLrnReach>()});
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
