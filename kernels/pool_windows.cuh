// Where a pool's windows lie along one axis, for every kernel that pools.
#pragma once

#include "core/vector.cuh"

namespace cconvnet {

struct Range {
  int begin, end;  // empty where end <= begin
};

// The part of window `index` that lies in the image.
__device__ __forceinline__ Range window(int index, int stride, int pad, int size, int image) {
  const int begin = index * stride - pad;
  return {max(begin, 0), min(begin + size, image)};
}

// What an average divides by along an axis: how many coordinates of window `index` lie in `counted`.
__device__ __forceinline__ float counted_size(int index, int stride, int pad, int size,
                                              const Range& counted) {
  const int begin = index * stride - pad;
  return static_cast<float>(min(begin + size, counted.end) - max(begin, counted.begin));
}

// The windows that hold coordinate `i`: those with index*stride <= i + pad < index*stride + size. With a
// negative padding the first coordinates are in none.
__device__ __forceinline__ Range windows_holding(int i, int stride, const Divider& stride_div, int pad,
                                                 int size, int windows) {
  const int next = i + pad + stride;
  return {stride_div.quotient(max(next - size, 0)), min(stride_div.quotient(max(next, 0)), windows)};
}

}  // namespace cconvnet
