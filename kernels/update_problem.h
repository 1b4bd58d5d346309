// The problems of the update of weights, which are part of problem.h.
#pragma once

#include "core/shapes.h"

namespace cconvnet {

// One parameter tensor's step: s = lr*(g + weight_decay*w); v = momentum*v - s; w = w + v.
// With Nesterov's momentum the weights look one step ahead: w = w + momentum*v - s, with the new v.
struct SgdProblem {
  int count;
  float lr, momentum, weight_decay;
  bool nesterov = false;

  static SgdProblem make(int count, float lr, float momentum, float weight_decay, bool nesterov = false) {
    detail::at_least("count", count, 1);
    return {count, lr, momentum, weight_decay, nesterov};
  }
};

// Limits to the Euclidean norm of each row of w[rows, columns], such as the weights of one filter or unit: at
// most `limit` and, where it is not 0, at least `low`. With `centered` the norm is that of the row minus its
// mean.
struct NormLimitProblem {
  int rows, columns;
  float limit, low;
  bool centered;

  static NormLimitProblem make(int rows, int columns, float limit, float low = 0.0f, bool centered = false) {
    detail::at_least("rows", rows, 1);
    detail::at_least("columns", columns, 1);
    detail::fits("w", {rows, columns});
    detail::require(limit > 0, "limit must be positive");
    detail::require(low >= 0, "low must not be negative");
    detail::require(low <= limit, "low must not be above limit");
    return {rows, columns, limit, low, centered};
  }

  int count() const { return rows * columns; }
};

}  // namespace cconvnet
