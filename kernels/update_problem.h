// The problems of the update of weights, which are part of problem.h.
#pragma once

#include <algorithm>
#include <cstdint>
#include <string>
#include <vector>

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

// The learning rate of one parameter tensor by layer-wise adaptive rate scaling:
// lr * eta * |w| / (|g| + weight_decay * |w| + eps), by Euclidean norms.
struct LarsProblem {
  int count;
  float eta, weight_decay, eps;

  static LarsProblem make(int count, float eta, float weight_decay, float eps) {
    detail::at_least("count", count, 1);
    detail::require(eta > 0, "eta must be positive");
    detail::require(weight_decay >= 0, "weight_decay must not be negative");
    detail::require(eps >= 0, "eps must not be negative");
    return {count, eta, weight_decay, eps};
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

// y[count] = scale * the sum of the rows of x[parts, count]. Sums are made on a stack: after part i is pushed,
// the two topmost sums are added merges[i] times, the earlier one on the left. In the end one sum is left. So
// `merges` is a tree, and the result depends on it and not on who made the parts.
struct TreeSumProblem {
  // A balanced tree of so many parts is as deep.
  static constexpr int kMostParts = 256, kMostSums = 9;

  int count, parts;
  int most_sums;  // at any time, a part that was just pushed among them
  float scale;
  uint8_t merges[kMostParts];

  static TreeSumProblem make(int count, const std::vector<int>& merges, float scale) {
    detail::at_least("count", count, 1);
    detail::require(!merges.empty() && merges.size() <= kMostParts,
                    "merges must have 1 to " + std::to_string(kMostParts) +
                        " elements, one for each part, not " + std::to_string(merges.size()));
    const int parts = static_cast<int>(merges.size());
    detail::fits("x", {parts, count});
    TreeSumProblem problem = {count, parts, 1, scale, {}};
    int sums = 0;
    for (int i = 0; i < parts; ++i) {
      const std::string name = "merges[" + std::to_string(i) + "]";
      ++sums;
      detail::require(sums <= kMostSums, name + " must follow merges that leave fewer than " +
                                             std::to_string(kMostSums) + " sums");
      detail::require(0 <= merges[i] && merges[i] < sums,
                      name + " must be from 0 to " + std::to_string(sums - 1) + ", since there are " +
                          std::to_string(sums) + " sums, not " + std::to_string(merges[i]));
      problem.most_sums = std::max(problem.most_sums, sums);
      sums -= merges[i];
      problem.merges[i] = static_cast<uint8_t>(merges[i]);
    }
    detail::require(sums == 1, "merges must leave one sum, not " + std::to_string(sums));
    return problem;
  }

  int x_count() const { return parts * count; }
  std::vector<int> merges_of_parts() const { return {merges, merges + parts}; }
};

}  // namespace cconvnet
