// The windows of a pool along one axis, for every kernel that pools.
#pragma once

#include "core/vector.cuh"

namespace cconvnet {

struct Range {
  int begin, end;  // empty where end <= begin
};

// The part of window `index` that is in the image.
__device__ __forceinline__ Range window(int index, int stride, int pad, int size, int image) {
  const int begin = index * stride - pad;
  return {max(begin, 0), min(begin + size, image)};
}

// The divisor of an average along an axis: the number of coordinates of window `index` in `counted`.
__device__ __forceinline__ float counted_size(int index, int stride, int pad, int size,
                                              const Range& counted) {
  const int begin = index * stride - pad;
  return static_cast<float>(min(begin + size, counted.end) - max(begin, counted.begin));
}

// The windows that contain coordinate `i`: those with index*stride <= i + pad < index*stride + size. With a
// negative padding the first coordinates are in none.
__device__ __forceinline__ Range windows_holding(int i, int stride, const Divider& stride_div, int pad,
                                                 int size, int windows) {
  const int next = i + pad + stride;
  return {stride_div.quotient(max(next - size, 0)), min(stride_div.quotient(max(next, 0)), windows)};
}

}  // namespace cconvnet
