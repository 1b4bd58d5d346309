// Rows whose Euclidean norm exceeds a limit are scaled down to it. A row is one thread's work.
#include <cmath>

#include "api.h"
#include "larger.h"
#include "parallel.h"
#include "row_norm.h"

namespace cconvnet {
namespace {

inline __attribute__((always_inline)) float sum_squares(const float* row, int columns, float scale) {
  float squares = 0.0f;
#pragma omp simd reduction(+ : squares)
  for (int i = 0; i < columns; ++i) {
    const float scaled = scale * row[i];
    squares += scaled * scaled;
  }
  return squares;
}

CCONVNET_CLONES void limit_row(float limit, int columns, float* row) {
  float scale = 1.0f, squares = sum_squares(row, columns, scale);
  if (!norm_is_plain(squares, limit)) {
    float largest = 0.0f;
    for (int i = 0; i < columns; ++i) largest = larger(std::abs(row[i]), largest);
    // An infinite element, or a NaN, keeps its sum.
    if (largest > 0.0f && std::isfinite(largest)) {
      scale = to_unit(largest);
      squares = sum_squares(row, columns, scale);
    }
  }
  const float norm = std::sqrt(squares);
  if (!(norm > limit * scale)) return;  // nor where the norm is NaN
  const float factor = limit / norm;
#pragma omp simd
  for (int i = 0; i < columns; ++i) {
    const float scaled = scale * row[i];
    row[i] = scaled * factor;
  }
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
