// The rate of a tensor by LARS, which follows from the norms of its weights and of their gradient.
//
// Each block sums the squares of a stretch of both, and one block adds the sums of all. The stretches depend on
// the count alone, and the order within one neither on chance nor on the alignment of the arrays.
#include "lars.h"
#include "core/row_reduce.cuh"

namespace cconvnet {
namespace {

constexpr int kWidth = kVectorWidth<float>;
constexpr int kTurn = kThreads * kWidth;  // elements that a block reads at once
constexpr int kAhead = 4;                 // turns whose loads start together
constexpr int kMostBlocks = 1024;

struct Stretches {
  int blocks, turns;  // turns of a block

  explicit Stretches(int count) {
    const int64_t all = ceil_div(count, kTurn);
    turns = static_cast<int>(ceil_div(ceil_div(all, kMostBlocks), kAhead) * kAhead);
    blocks = static_cast<int>(ceil_div(all, turns));
  }
};

struct LarsShared {
  double w[kWarps], g[kWarps];
};

// The sums of all threads, for every thread.
__device__ __forceinline__ LarsSquares of_block(const LarsSquares& own) {
  LarsShared& shared = shared_memory<LarsShared>();
  return {reduce_row<kThreads>(own.w, shared.w, Sum()), reduce_row<kThreads>(own.g, shared.g, Sum())};
}

// Zeros beyond the last element.
template <bool ALIGNED>
__device__ __forceinline__ Vector<kWidth> load_within(const float* from, int64_t i, int count) {
  if (i + kWidth <= count) return load_from<kWidth, ALIGNED>(from + i);
  Vector<kWidth> result = zeros<kWidth>();
#pragma unroll
  for (int j = 0; j < kWidth; ++j) {
    if (i + j < count) result.lane[j] = from[i + j];
  }
  return result;
}

__device__ __forceinline__ void add_squares(double& sum, const Vector<kWidth>& values) {
#pragma unroll
  for (int j = 0; j < kWidth; ++j) {
    const double value = values.lane[j];
    sum += value * value;
  }
}

template <bool ALIGNED>
__global__ void __launch_bounds__(kThreads)
    lars_squares(int count, int turns, const float* w, const float* g, LarsSquares* sums) {
  const int64_t begin = int64_t{blockIdx.x} * turns * kTurn + threadIdx.x * kWidth;
  LarsSquares own = {0.0, 0.0};
  for (int turn = 0; turn < turns; turn += kAhead) {
    Vector<kWidth> ws[kAhead], gs[kAhead];
#pragma unroll
    for (int l = 0; l < kAhead; ++l) {
      const int64_t i = begin + int64_t{turn + l} * kTurn;
      ws[l] = load_within<ALIGNED>(w, i, count);
      gs[l] = load_within<ALIGNED>(g, i, count);
    }
#pragma unroll
    for (int l = 0; l < kAhead; ++l) {
      add_squares(own.w, ws[l]);
      add_squares(own.g, gs[l]);
    }
  }
  const LarsSquares sum = of_block(own);
  if (threadIdx.x == 0) sums[blockIdx.x] = sum;
}

__global__ void __launch_bounds__(kThreads)
    lars_rate_of_sums(LarsProblem problem, int blocks, const LarsSquares* sums, const float* rates,
                      float* rates_out) {
  LarsSquares own = {0.0, 0.0};
  for (int i = threadIdx.x; i < blocks; i += kThreads) {
    own.w += sums[i].w;
    own.g += sums[i].g;
  }
  const LarsSquares sum = of_block(own);
  if (threadIdx.x == 0) {
    const float lr = rates[0], momentum = rates[1];
    rates_out[0] = lars_rate_of(problem, sum, lr);
    rates_out[1] = momentum;
  }
}

}  // namespace

size_t lars_rate_workspace(const LarsProblem& problem) {
  return Stretches(problem.count).blocks * sizeof(LarsSquares);
}

void lars_rate(const LarsProblem& problem, const float* w, const float* g, const float* rates,
               float* rates_out, void* workspace, Stream stream) {
  const Stretches stretches(problem.count);
  const dim3 grid(static_cast<unsigned>(stretches.blocks));
  auto* const sums = static_cast<LarsSquares*>(workspace);
  if (aligned(w, g)) {
    CCONVNET_LAUNCH((lars_squares<true>), grid, kThreads, stream, problem.count, stretches.turns, w, g, sums);
  } else {
    CCONVNET_LAUNCH((lars_squares<false>), grid, kThreads, stream, problem.count, stretches.turns, w, g,
                    sums);
  }
  CCONVNET_LAUNCH((lars_rate_of_sums), dim3(1), kThreads, stream, problem, stretches.blocks, sums, rates,
                  rates_out);
}

}  // namespace cconvnet
