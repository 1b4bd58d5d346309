// Rows whose Euclidean norm exceeds a limit are scaled down to it. A block serves a row: it sums the squares,
// and where the row is too long reads it a second time, from the caches, and writes it.
#include "row_reduce.cuh"

namespace cconvnet {
namespace {

struct LimitNormShared {
  float sums[kWarps];
};

template <int WIDTH>
__global__ void __launch_bounds__(kThreads) limit_rows(int columns, float limit, float* w) {
  float* row = w + int64_t{blockIdx.x} * columns;
  const int64_t first = int64_t{threadIdx.x} * WIDTH;
  constexpr int kStep = kThreads * WIDTH;

  Vector<WIDTH> squares = zeros<WIDTH>();
  for (int64_t i = first; i < columns; i += kStep) {
    const Vector<WIDTH> value = load<WIDTH>(row + i);
#pragma unroll
    for (int j = 0; j < WIDTH; ++j) squares.lane[j] = fmaf(value.lane[j], value.lane[j], squares.lane[j]);
  }
  float sum = squares.lane[0];
#pragma unroll
  for (int j = 1; j < WIDTH; ++j) sum += squares.lane[j];
  const float norm = sqrtf(reduce_row<kThreads>(sum, shared_memory<LimitNormShared>().sums, Sum()));

  // Not where the norm is NaN.
  if (norm > limit) {
    const float scale = limit / norm;
    for (int64_t i = first; i < columns; i += kStep) {
      Vector<WIDTH> value = load<WIDTH>(row + i);
#pragma unroll
      for (int j = 0; j < WIDTH; ++j) value.lane[j] *= scale;
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
