// The sum of the rows of a matrix in a fixed tree. Each thread takes a range of columns, and adds blocks of them
// over all rows, so that the sums that wait for a later part stay in its cache.
#include "api.h"
#include "parallel.h"

namespace cconvnet {
namespace {

constexpr int kBlock = 1024;  // columns; all sums of a block are 32 KiB

template <class T>
CCONVNET_CLONES void sum_block(const TreeSumProblem& problem, const T* x, int columns, float* y) {
  // A part is added to the newest sum as it is read, so it needs no place of its own.
  float sums[TreeSumProblem::kMostSums - 1][kBlock];
  int newest = -1;
  for (int part = 0; part < problem.parts; ++part, x += problem.count) {
    int merges = problem.merges[part];
    if (merges == 0) {
      float* const sum = sums[++newest];
#pragma omp simd
      for (int i = 0; i < columns; ++i) sum[i] = to_float(x[i]);
      continue;
    }
    float* const sum = sums[newest];
#pragma omp simd
    for (int i = 0; i < columns; ++i) sum[i] += to_float(x[i]);
    for (; merges > 1; --merges, --newest) {
      float* const earlier = sums[newest - 1];
      const float* const later = sums[newest];
#pragma omp simd
      for (int i = 0; i < columns; ++i) earlier[i] += later[i];
    }
  }
  const float* const sum = sums[0];
  const float scale = problem.scale;
  if (scale == 1.0f) {
    std::copy(sum, sum + columns, y);
  } else {
#pragma omp simd
    for (int i = 0; i < columns; ++i) y[i] = scale * sum[i];
  }
}

}  // namespace

template <class T>
void tree_sum(const TreeSumProblem& problem, const T* x, float* y, Stream) {
  parallel_ranges(problem.count, problem.parts, [&](int, int64_t begin, int64_t end) {
    for (; begin < end; begin += kBlock) {
      const int columns = static_cast<int>(std::min<int64_t>(kBlock, end - begin));
      sum_block(problem, x + begin, columns, y + begin);
    }
  });
}

template void tree_sum(const TreeSumProblem&, const float*, float*, Stream);
template void tree_sum(const TreeSumProblem&, const bfloat16*, float*, Stream);

}  // namespace cconvnet
