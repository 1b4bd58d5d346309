// The rate of LARS from the norms, for both sides.
#pragma once

#include <cmath>

#include "problem.h"
#include "core/host_device.h"

namespace cconvnet {

// Squares are summed in double: no float's square leaves its range, so no vector needs to be scaled first.
struct LarsSquares {
  double w, g;
};

// NaN where a norm is NaN counts as no norm, like 0: the rate is then `lr`.
CCONVNET_HOST_DEVICE float lars_rate_of(const LarsProblem& problem, const LarsSquares& squares, float lr) {
  if (!(squares.w > 0.0 && squares.g > 0.0)) return lr;
  const double w = sqrt(squares.w), g = sqrt(squares.g);
  return static_cast<float>(lr * (problem.eta * w / (g + problem.weight_decay * w + problem.eps)));
}

}  // namespace cconvnet
