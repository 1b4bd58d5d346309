// Dropout, y = x * scale where a Philox draw keeps the element, else 0 (philox.h says the rule).
//
// Each thread serves the four elements of one Philox call, so no random word is wasted. The mask depends on
// an element's index alone: forward and backward, vectors or not, draw the same.
#include "philox.h"

#include "vector.cuh"

namespace cconvnet {
namespace {

constexpr int kWords = 4;  // of one Philox call
static_assert(kWords == kVectorWidth, "a thread's vector takes the words of one Philox call");

template <bool VECTORS>
__global__ void __launch_bounds__(kThreads)
    dropout_kernel(int count, float scale, uint64_t threshold, uint64_t seed, uint64_t subsequence,
                   const float* x, float* y) {
  const int64_t block = int64_t{blockIdx.x} * kThreads + threadIdx.x;
  const int64_t i = block * kWords;
  if (i >= count) return;
  const PhiloxWords random = philox4x32_10(static_cast<uint32_t>(block), subsequence, seed);
  if (VECTORS && i + kWords <= count) {
    Vector<kWords> value = load<kWords>(x + i);
#pragma unroll
    for (int j = 0; j < kWords; ++j) {
      value.lane[j] = dropout_value(value.lane[j], scale, random.word[j], threshold);
    }
    store(y + i, value);
  } else {
#pragma unroll
    for (int j = 0; j < kWords; ++j) {
      if (i + j < count) y[i + j] = dropout_value(x[i + j], scale, random.word[j], threshold);
    }
  }
}

}  // namespace

void dropout(const DropoutProblem& problem, const float* x, float* y, Stream stream) {
  const dim3 grid(static_cast<unsigned>(ceil_div(problem.count, kThreads * kWords)));
  if (aligned(x, y)) {
    CCONVNET_LAUNCH((dropout_kernel<true>), grid, kThreads, stream, problem.count, problem.scale,
                    problem.threshold(), problem.seed, problem.subsequence, x, y);
  } else {
    CCONVNET_LAUNCH((dropout_kernel<false>), grid, kThreads, stream, problem.count, problem.scale,
                    problem.threshold(), problem.seed, problem.subsequence, x, y);
  }
}

}  // namespace cconvnet
