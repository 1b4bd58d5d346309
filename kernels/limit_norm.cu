// Rows whose Euclidean norm exceeds a limit are scaled down to it. A block serves a row: it sums the squares,
// and where the row is too long reads it a second time, from the caches, and writes it. Where the sum
// overflows, or loses what underflows, it sums the squares of the row scaled by a power of two.
#include "larger.h"
#include "row_norm.h"
#include "row_reduce.cuh"

namespace cconvnet {
namespace {

struct LimitNormShared {
  float sums[kWarps], largest[kWarps], scaled_sums[kWarps];
};

struct Larger {
  __device__ float operator()(float a, float b) const { return larger(a, b); }
};

// The thread's part of the sum of squares of row * scale.
template <int WIDTH>
__device__ __forceinline__ float sum_squares(const float* row, int64_t first, int columns, float scale) {
  Vector<WIDTH> squares = zeros<WIDTH>();
  for (int64_t i = first; i < columns; i += kThreads * WIDTH) {
    const Vector<WIDTH> value = load<WIDTH>(row + i);
#pragma unroll
    for (int j = 0; j < WIDTH; ++j) {
      const float scaled = scale * value.lane[j];
      squares.lane[j] = fmaf(scaled, scaled, squares.lane[j]);
    }
  }
  float sum = squares.lane[0];
#pragma unroll
  for (int j = 1; j < WIDTH; ++j) sum += squares.lane[j];
  return sum;
}

template <int WIDTH>
__global__ void __launch_bounds__(kThreads) limit_rows(int columns, float limit, float* w) {
  float* row = w + int64_t{blockIdx.x} * columns;
  const int64_t first = int64_t{threadIdx.x} * WIDTH;
  constexpr int kStep = kThreads * WIDTH;

  LimitNormShared& shared = shared_memory<LimitNormShared>();
  float scale = 1.0f;
  float squares = reduce_row<kThreads>(sum_squares<WIDTH>(row, first, columns, scale), shared.sums, Sum());
  if (!norm_is_plain(squares, limit)) {
    float largest = 0.0f;
    for (int64_t i = first; i < columns; i += kStep) {
      const Vector<WIDTH> value = load<WIDTH>(row + i);
#pragma unroll
      for (int j = 0; j < WIDTH; ++j) largest = larger(fabsf(value.lane[j]), largest);
    }
    largest = reduce_row<kThreads>(largest, shared.largest, Larger());
    // An infinite element, or a NaN, keeps its sum.
    if (largest > 0.0f && largest <= FLT_MAX) {
      scale = to_unit(largest);
      squares =
          reduce_row<kThreads>(sum_squares<WIDTH>(row, first, columns, scale), shared.scaled_sums, Sum());
    }
  }
  const float norm = sqrtf(squares);

  // Not where the norm is NaN.
  if (norm > limit * scale) {
    const float factor = limit / norm;
    for (int64_t i = first; i < columns; i += kStep) {
      Vector<WIDTH> value = load<WIDTH>(row + i);
#pragma unroll
      for (int j = 0; j < WIDTH; ++j) value.lane[j] *= scale;
#pragma unroll
      for (int j = 0; j < WIDTH; ++j) value.lane[j] *= factor;
      store(row + i, value);
    }
  }
}

}  // namespace

void limit_norm(const NormLimitProblem& problem, float* w, Stream stream) {
  const dim3 grid(static_cast<unsigned>(problem.rows));
  if (problem.columns % kVectorWidth<float> == 0 && aligned(w)) {
    CCONVNET_LAUNCH((limit_rows<kVectorWidth<float>>), grid, kThreads, stream, problem.columns, problem.limit,
                    w);
  } else {
    CCONVNET_LAUNCH((limit_rows<1>), grid, kThreads, stream, problem.columns, problem.limit, w);
  }
}

}  // namespace cconvnet
