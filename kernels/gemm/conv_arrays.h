// Arrays of a convolution as tensor maps describe them (core/tensor_map.h): dimensions from the innermost on.
#pragma once

#include "core/tensor_map.h"

namespace cconvnet {

// Images {C, W, H, N}.
inline TensorArray images(const void* data, int element_bytes, int n, int h, int w, int c) {
  const uint64_t pixel = static_cast<uint64_t>(c) * element_bytes;
  return {data,
          element_bytes,
          4,
          {static_cast<uint64_t>(c), static_cast<uint64_t>(w), static_cast<uint64_t>(h),
           static_cast<uint64_t>(n)},
          {static_cast<uint64_t>(element_bytes), pixel, pixel * w, pixel * w * h}};
}

// Filters {C/groups, R*S, K}.
inline TensorArray taps_of_filters(const ConvProblem& problem, const void* data, int element_bytes) {
  const uint64_t channels = problem.c_per_group(), taps = static_cast<uint64_t>(problem.r) * problem.s;
  const uint64_t tap = channels * element_bytes;
  return {data,
          element_bytes,
          3,
          {channels, taps, static_cast<uint64_t>(problem.k)},
          {static_cast<uint64_t>(element_bytes), tap, tap * taps}};
}

}  // namespace cconvnet
