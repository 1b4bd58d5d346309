// Dropout by a mask that Philox draws again at every call (philox.h).
#include "api.h"
#include "parallel.h"
#include "philox.h"

namespace cconvnet {
namespace {

constexpr int kWords = 4;    // that one draw gives
constexpr int kBlocks = 64;  // draws made at once, in vector lanes

// Elements [begin, end), where `begin` is a multiple of kWords.
CCONVNET_CLONES void dropout_range(const DropoutProblem& o, const float* x, float* y, int64_t begin,
                                   int64_t end) {
  const uint64_t threshold = o.threshold();
  const float scale = o.scale;
  uint32_t words[kBlocks * kWords];
  for (int64_t first = begin; first < end; first += kWords * kBlocks) {
    const uint32_t block = static_cast<uint32_t>(first / kWords);
#pragma omp simd
    for (int i = 0; i < kBlocks; ++i) {
      const PhiloxWords drawn = philox4x32_10(block + i, o.subsequence, o.seed);
      for (int j = 0; j < kWords; ++j) words[i * kWords + j] = drawn.word[j];
    }
    const int count = static_cast<int>(std::min<int64_t>(kWords * kBlocks, end - first));
#pragma omp simd
    for (int i = 0; i < count; ++i) {
      y[first + i] = dropout_value(x[first + i], scale, words[i], threshold);
    }
  }
}

}  // namespace

void dropout(const DropoutProblem& problem, const float* x, float* y, Stream) {
  const int64_t blocks = detail::ceil_div(problem.count - 1, kWords) + 1;
  parallel_ranges(blocks, 4 * kWords, [&](int, int64_t begin, int64_t end) {
    dropout_range(problem, x, y, begin * kWords, std::min<int64_t>(end * kWords, problem.count));
  });
}

}  // namespace cconvnet
