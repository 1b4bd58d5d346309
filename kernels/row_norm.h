// When a row's plain sum of squares gives its norm, and by what to scale the row where it does not.
#pragma once

#include <cfloat>
#include <cmath>

#include "core/host_device.h"

namespace cconvnet {

// Whether limiting by the root of `squares`, a float's sum, is right: the sum did not overflow, squares that
// underflowed do not matter to it, and limit / norm and low / norm are normal numbers.
CCONVNET_HOST_DEVICE bool norm_is_plain(float squares, float limit, float low) {
  constexpr float kLeast = 1e-27f, kLeastNorm = 3e-14f;
  if (!(squares <= FLT_MAX)) return false;
  if (squares < kLeast) return limit > kLeastNorm && low == 0.0f;
  const float norm = sqrtf(squares);
  return limit >= FLT_MIN * norm && FLT_MIN * low <= norm;
}

// The norm that a row is to be given, whose norm times `scale` is `norm`; 0 where the row stays as it is, as
// it does where its norm is 0 or NaN.
CCONVNET_HOST_DEVICE float target_norm(float norm, float scale, float limit, float low) {
  if (norm > limit * scale) return limit;
  return norm > 0.0f && norm < low * scale ? low : 0.0f;
}

// A power of two that takes `largest`, the magnitude of a row's largest element, into [0.5, 1), or near it
// from the smallest floats.
CCONVNET_HOST_DEVICE float to_unit(float largest) {
  int exponent;
  frexpf(largest, &exponent);
  return ldexpf(1.0f, exponent < -126 ? 126 : -exponent);
}

}  // namespace cconvnet
