// Dropout, y = x * scale where a Philox draw keeps the element, else 0 (philox.h says the rule).
//
// Each thread serves the four elements of one Philox call, so no random word is wasted. Where a part of a
// tensor does not begin with a call's first word in each of its rows, a thread serves one element instead and
// draws all four words for it. The mask depends on an element's index in the whole tensor alone: forward and
// backward, vectors or not, draw the same.
#include "philox.h"

#include "vector.cuh"

namespace cconvnet {
namespace {

constexpr int kWords = 4;  // of one Philox call
static_assert(kWords == kVectorWidth, "a thread's vector takes the words of one Philox call");

struct DropoutArguments {
  DropoutProblem problem;
  uint64_t threshold;
  Divider columns_div;

  // The index in the whole tensor of the part's element i.
  __device__ __forceinline__ uint32_t index(int64_t i) const {
    int column;
    const int row = columns_div.divide(static_cast<int>(i), column);
    return row * problem.row_stride + problem.first + column;
  }
};

template <bool VECTORS>
__global__ void __launch_bounds__(kThreads) dropout_draws(DropoutArguments a, const float* x, float* y) {
  const int count = a.problem.count;
  const float scale = a.problem.scale;
  const uint64_t threshold = a.threshold;
  const int64_t i = (int64_t{blockIdx.x} * kThreads + threadIdx.x) * kWords;
  if (i >= count) return;
  const PhiloxWords random = philox4x32_10(a.index(i) / kWords, a.problem.subsequence, a.problem.seed);
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

__global__ void __launch_bounds__(kThreads) dropout_elements(DropoutArguments a, const float* x, float* y) {
  const int64_t i = int64_t{blockIdx.x} * kThreads + threadIdx.x;
  if (i >= a.problem.count) return;
  const uint32_t word = philox_word(a.index(i), a.problem.subsequence, a.problem.seed);
  y[i] = dropout_value(x[i], a.problem.scale, word, a.threshold);
}

// Whether the elements of each Philox call lie side by side in the part, the first at a multiple of four.
bool whole_draws(const DropoutProblem& o) {
  const bool one_row = o.columns == o.count;
  return o.first % kWords == 0 && (one_row || (o.columns % kWords == 0 && o.row_stride % kWords == 0));
}

}  // namespace

void dropout(const DropoutProblem& problem, const float* x, float* y, Stream stream) {
  const DropoutArguments a{problem, problem.threshold(), Divider(problem.columns)};
  const int width = whole_draws(problem) ? kWords : 1;
  const dim3 grid(static_cast<unsigned>(ceil_div(problem.count, kThreads * width)));
  if (width == 1) {
    CCONVNET_LAUNCH(dropout_elements, grid, kThreads, stream, a, x, y);
  } else if (aligned(x, y)) {
    CCONVNET_LAUNCH((dropout_draws<true>), grid, kThreads, stream, a, x, y);
  } else {
    CCONVNET_LAUNCH((dropout_draws<false>), grid, kThreads, stream, a, x, y);
  }
}

}  // namespace cconvnet
