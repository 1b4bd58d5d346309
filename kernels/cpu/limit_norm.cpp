// Scales rows whose Euclidean norm exceeds a limit down to it, and those below a lower limit up to that. A
// row is one thread's work.
#include <cmath>

#include "api.h"
#include "core/larger.h"
#include "parallel.h"
#include "row_norm.h"

namespace cconvnet {
namespace {

#define CCONVNET_INLINE inline __attribute__((always_inline))

// The square of the norm of row * scale. The mean is computed from the differences to the first element:
// equal values give exactly 0.
template <bool CENTERED>
CCONVNET_INLINE float squared_norm(const float* row, int columns, float scale) {
  const float origin = CENTERED ? scale * row[0] : 0.0f;
  float mean = 0.0f;
  if (CENTERED) {
#pragma omp simd reduction(+ : mean)
    for (int i = 0; i < columns; ++i) mean += scale * row[i] - origin;
    mean /= static_cast<float>(columns);
  }
  float squares = 0.0f;
#pragma omp simd reduction(+ : squares)
  for (int i = 0; i < columns; ++i) {
    float scaled = scale * row[i];
    if (CENTERED) scaled = scaled - origin - mean;
    squares += scaled * scaled;
  }
  return squares;
}

template <bool CENTERED>
CCONVNET_INLINE void limit_row(float limit, float low, int columns, float* row) {
  float scale = 1.0f, squares = squared_norm<CENTERED>(row, columns, scale);
  if (!norm_is_plain(squares, limit, low)) {
    float largest = 0.0f;
    for (int i = 0; i < columns; ++i) largest = larger(std::abs(row[i]), largest);
    // A row with an infinite element or a NaN keeps its sum.
    if (largest > 0.0f && std::isfinite(largest)) {
      scale = to_unit(largest);
      squares = squared_norm<CENTERED>(row, columns, scale);
    }
  }
  const float norm = std::sqrt(squares);
  const float target = target_norm(norm, scale, limit, low);
  if (target == 0.0f) return;
  const float factor = target / norm;
#pragma omp simd
  for (int i = 0; i < columns; ++i) {
    const float scaled = scale * row[i];
    row[i] = scaled * factor;
  }
}

CCONVNET_CLONES void limit_plain_row(float limit, float low, int columns, float* row) {
  limit_row<false>(limit, low, columns, row);
}

CCONVNET_CLONES void limit_centered_row(float limit, float low, int columns, float* row) {
  limit_row<true>(limit, low, columns, row);
}

}  // namespace

void limit_norm(const NormLimitProblem& problem, float* w, Stream) {
  const auto limit_one = problem.centered ? limit_centered_row : limit_plain_row;
  parallel_ranges(problem.rows, problem.columns, [&](int, int64_t begin, int64_t end) {
    for (int64_t row = begin; row < end; ++row) {
      limit_one(problem.limit, problem.low, problem.columns, w + row * problem.columns);
    }
  });
}

}  // namespace cconvnet
