// Rows whose Euclidean norm exceeds a limit are scaled down to it. A row is one thread's work.
#include <cmath>

#include "api.h"
#include "parallel.h"

namespace cconvnet {
namespace {

CCONVNET_CLONES void limit_row(float limit, int columns, float* row) {
  float squares = 0.0f;
#pragma omp simd reduction(+ : squares)
  for (int i = 0; i < columns; ++i) squares += row[i] * row[i];
  const float norm = std::sqrt(squares);
  if (!(norm > limit)) return;  // nor where the norm is NaN
  const float scale = limit / norm;
#pragma omp simd
  for (int i = 0; i < columns; ++i) row[i] *= scale;
}

}  // namespace

void limit_norm(const NormLimitProblem& problem, float* w, Stream) {
  parallel_ranges(problem.rows, problem.columns, [&](int, int64_t begin, int64_t end) {
    for (int64_t row = begin; row < end; ++row) {
      limit_row(problem.limit, problem.columns, w + row * problem.columns);
    }
  });
}

}  // namespace cconvnet
