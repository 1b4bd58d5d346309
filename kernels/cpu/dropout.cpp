// Dropout with a mask that Philox draws again at every call (core/philox.h).
#include "api.h"
#include "parallel.h"
#include "core/philox.h"

namespace cconvnet {
namespace {

constexpr int kWords = 4;    // that one draw gives
constexpr int kBlocks = 64;  // draws made at once, in vector lanes

// `count` neighbouring elements, the first of which has the index `index` in the whole tensor.
template <class T>
CCONVNET_CLONES void dropout_run(const DropoutProblem& problem, uint64_t subsequence, const T* x, T* y,
                                 int64_t index, int64_t count) {
  const uint64_t threshold = problem.threshold();
  const float scale = problem.scale;
  uint32_t words[kBlocks * kWords];
  while (count > 0) {
    const uint32_t block = static_cast<uint32_t>(index / kWords);
    const int skipped = static_cast<int>(index % kWords);  // words of the first block
    const int served = static_cast<int>(std::min<int64_t>(kBlocks * kWords - skipped, count));
    const int blocks = detail::ceil_div(skipped + served, kWords);
#pragma omp simd
    for (int i = 0; i < blocks; ++i) {
      const PhiloxWords drawn = philox4x32_10(block + i, subsequence, problem.seed);
      for (int j = 0; j < kWords; ++j) words[i * kWords + j] = drawn.word[j];
    }
#pragma omp simd
    for (int i = 0; i < served; ++i) {
      y[i] = from_float<T>(dropout_value(to_float(x[i]), scale, words[skipped + i], threshold));
    }
    x += served, y += served, index += served, count -= served;
  }
}

}  // namespace

template <class T>
void dropout(const DropoutProblem& problem, const int64_t* step, const T* x, T* y, Stream) {
  const uint64_t subsequence = problem.subsequence + (step ? static_cast<uint64_t>(*step) : 0);
  const int64_t stretch = problem.stretch();
  // A draw costs about as much as four elements' memory traffic.
  parallel_ranges(problem.count, 4, [&](int, int64_t begin, int64_t end) {
    while (begin < end) {
      const int64_t row = begin / stretch, column = begin % stretch;
      const int64_t count = std::min(stretch - column, end - begin);
      const int64_t index = row * problem.row_stride + problem.first_index() + column;
      dropout_run(problem, subsequence, x + begin, y + begin, index, count);
      begin += count;
    }
  });
}

template void dropout(const DropoutProblem&, const int64_t*, const float*, float*, Stream);
template void dropout(const DropoutProblem&, const int64_t*, const bfloat16*, bfloat16*, Stream);

}  // namespace cconvnet
