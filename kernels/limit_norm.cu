// Scales rows whose Euclidean norm exceeds a limit down to it, and those below a lower limit up to that. A
// block serves a row. It sums the squares, and where the norm is to change reads the row a second time, from
// the caches, and writes it. Where the sum overflows, or small squares underflow, it sums the squares of the
// row scaled by a power of two. A centred norm first needs the mean, which is computed from the differences
// to the row's first element: equal values give exactly 0.
#include "core/larger.h"
#include "row_norm.h"
#include "core/row_reduce.cuh"
#include "core/select.h"

namespace cconvnet {
namespace {

struct LimitNormShared {
  float means[kWarps], sums[kWarps], largest[kWarps], scaled_means[kWarps], scaled_sums[kWarps];
};

struct Larger {
  __device__ float operator()(float a, float b) const { return larger(a, b); }
};

template <int WIDTH>
__device__ __forceinline__ float sum_lanes(const Vector<WIDTH>& values) {
  float sum = values.lane[0];
#pragma unroll
  for (int j = 1; j < WIDTH; ++j) sum += values.lane[j];
  return sum;
}

// The thread's part of the sum of row * scale - origin.
template <int WIDTH>
__device__ __forceinline__ float sum_differences(const float* row, int64_t first, int columns, float scale,
                                                 float origin) {
  Vector<WIDTH> sums = zeros<WIDTH>();
  for (int64_t i = first; i < columns; i += kThreads * WIDTH) {
    const Vector<WIDTH> value = load<WIDTH>(row + i);
#pragma unroll
    for (int j = 0; j < WIDTH; ++j) sums.lane[j] += scale * value.lane[j] - origin;
  }
  return sum_lanes(sums);
}

// The thread's part of the sum of squares of row * scale or, if CENTERED, of row * scale - origin - mean.
template <int WIDTH, bool CENTERED>
__device__ __forceinline__ float sum_squares(const float* row, int64_t first, int columns, float scale,
                                             float origin, float mean) {
  Vector<WIDTH> squares = zeros<WIDTH>();
  for (int64_t i = first; i < columns; i += kThreads * WIDTH) {
    const Vector<WIDTH> value = load<WIDTH>(row + i);
#pragma unroll
    for (int j = 0; j < WIDTH; ++j) {
      float scaled = scale * value.lane[j];
      if (CENTERED) scaled = scaled - origin - mean;
      squares.lane[j] = fmaf(scaled, scaled, squares.lane[j]);
    }
  }
  return sum_lanes(squares);
}

// The square of the norm of row * scale, for every thread of the block.
template <int WIDTH, bool CENTERED>
__device__ __forceinline__ float squared_norm(const float* row, int64_t first, int columns, float scale,
                                              float origin, float* means, float* sums) {
  float mean = 0.0f;
  if (CENTERED) {
    const float sum = sum_differences<WIDTH>(row, first, columns, scale, origin);
    mean = reduce_row<kThreads>(sum, means, Sum()) / static_cast<float>(columns);
  }
  return reduce_row<kThreads>(sum_squares<WIDTH, CENTERED>(row, first, columns, scale, origin, mean), sums,
                              Sum());
}

template <int WIDTH, bool CENTERED>
__global__ void __launch_bounds__(kThreads) limit_rows(int columns, float limit, float low, float* w) {
  float* row = w + int64_t{blockIdx.x} * columns;
  const int64_t first = int64_t{threadIdx.x} * WIDTH;
  constexpr int kStep = kThreads * WIDTH;

  LimitNormShared& shared = shared_memory<LimitNormShared>();
  const float origin = CENTERED ? row[0] : 0.0f;
  float scale = 1.0f;
  float squares =
      squared_norm<WIDTH, CENTERED>(row, first, columns, scale, origin, shared.means, shared.sums);
  if (!norm_is_plain(squares, limit, low)) {
    float largest = 0.0f;
    for (int64_t i = first; i < columns; i += kStep) {
      const Vector<WIDTH> value = load<WIDTH>(row + i);
#pragma unroll
      for (int j = 0; j < WIDTH; ++j) largest = larger(fabsf(value.lane[j]), largest);
    }
    largest = reduce_row<kThreads>(largest, shared.largest, Larger());
    // A row with an infinite element or a NaN keeps its sum.
    if (largest > 0.0f && largest <= FLT_MAX) {
      scale = to_unit(largest);
      squares = squared_norm<WIDTH, CENTERED>(row, first, columns, scale, scale * origin, shared.scaled_means,
                                              shared.scaled_sums);
    }
  }
  const float norm = sqrtf(squares);

  const float target = target_norm(norm, scale, limit, low);
  if (target > 0.0f) {
    const float factor = target / norm;
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

struct LimitNormArguments {
  float* w;
  void* workspace = nullptr;
  bool aligned() const { return cconvnet::aligned(w); }
};

template <int WIDTH>
void launch(const NormLimitProblem& problem, const LimitNormArguments& args, Stream stream) {
  const dim3 grid(static_cast<unsigned>(problem.rows));
  if (problem.centered) {
    CCONVNET_LAUNCH((limit_rows<WIDTH, true>), grid, kThreads, stream, problem.columns, problem.limit,
                    problem.low, args.w);
  } else {
    CCONVNET_LAUNCH((limit_rows<WIDTH, false>), grid, kThreads, stream, problem.columns, problem.limit,
                    problem.low, args.w);
  }
}

// Every row then begins on a vector's boundary, if w does.
bool vectors_divide_columns(const NormLimitProblem& problem) {
  return problem.columns % kVectorWidth<float> == 0;
}

const SelectionTable<NormLimitProblem, LimitNormArguments>& table() {
  static const SelectionTable<NormLimitProblem, LimitNormArguments> table(
      "limit_norm",
      {{"limit_norm_fp32", true, vectors_divide_columns, always, no_workspace, launch<kVectorWidth<float>>},
       {"limit_norm_fp32_scalar", false, always, always, no_workspace, launch<1>}});
  return table;
}

}  // namespace

void limit_norm(const NormLimitProblem& problem, float* w, Stream stream) {
  table().run(problem, {w}, stream, nullptr);
}

}  // namespace cconvnet
