// The windows of a pool along one axis, for every kernel that pools.
#pragma once

#include "core/vector.cuh"

namespace cconvnet {

struct Range {
  int begin, end;  // empty where end <= begin
};

// The vectors of neighbouring channels of a tensor [n, rows, columns, c], over which threads run: the channels
// first, so that a warp reads whole rows of them.
struct PixelVectors {
  int count;
  Divider c_div, column_div, row_div;  // by the vectors of a pixel, by its columns and by its rows

  PixelVectors(int n, int rows, int columns, int c, int width)
      : count(n * rows * columns * (c / width)), c_div(c / width), column_div(columns), row_div(rows) {}

  dim3 blocks() const { return dim3(static_cast<unsigned>(ceil_div(count, kThreads))); }
};

struct Position {
  int n, row, column, c;
};

template <int WIDTH>
__device__ __forceinline__ Position position_of(const PixelVectors& vectors, int vector) {
  Position at;
  int pixel = vectors.c_div.divide(vector, at.c);
  at.c *= WIDTH;
  pixel = vectors.column_div.divide(pixel, at.column);
  at.n = vectors.row_div.divide(pixel, at.row);
  return at;
}

// Vectors need a number of channels that they divide, so that every pixel begins with a whole one.
template <class T>
bool vectors_divide_channels(const PoolProblem& problem) {
  return problem.c % kVectorWidth<T> == 0;
}

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
