// Rules for limiting a row's norm: when its plain sum of squares is accurate, and by what to scale the row
// otherwise.
#pragma once

#include <cfloat>
#include <cmath>

#include "core/host_device.h"

namespace cconvnet {

// Returns whether the root of `squares`, a float's sum, is accurate enough to limit by. The sum must not
// overflow, squares that underflow must not matter to it, and limit / norm and low / norm must be normal
// numbers.
CCONVNET_HOST_DEVICE bool norm_is_plain(float squares, float limit, float low) {
  constexpr float kMinSquares = 1e-27f, kMinNorm = 3e-14f;
  if (!(squares <= FLT_MAX)) return false;
  if (squares < kMinSquares) return limit > kMinNorm && low == 0.0f;
  const float norm = sqrtf(squares);
  return limit >= FLT_MIN * norm && FLT_MIN * low <= norm;
}

// The norm to which a row is scaled, where its norm times `scale` is `norm`. 0 means that the row keeps its
// bits, as it does where its norm is 0 or NaN.
CCONVNET_HOST_DEVICE float target_norm(float norm, float scale, float limit, float low) {
  if (norm > limit * scale) return limit;
  return norm > 0.0f && norm < low * scale ? low : 0.0f;
}

// A power of two that brings `largest`, the magnitude of a row's largest element, into [0.5, 1), or near it
// for the smallest floats.
CCONVNET_HOST_DEVICE float to_unit(float largest) {
  int exponent;
  frexpf(largest, &exponent);
  return ldexpf(1.0f, exponent < -126 ? 126 : -exponent);
}

}  // namespace cconvnet
