// Dropout: four elements share one draw; see kernels/philox.h.
#include "api.h"
#include "parallel.h"
#include "philox.h"

namespace cconvnet {

CCONVNET_CLONES void cpu_dropout(const DropoutProblem& problem, const float* x, float* y, int64_t begin,
                                 int64_t end) {
  const uint64_t threshold = problem.threshold();
  for (int64_t i = begin; i < end; i += 4) {
    const PhiloxWords draw = philox4x32_10(static_cast<uint32_t>(i / 4), problem.subsequence, problem.seed);
    for (int64_t j = i; j < end && j < i + 4; ++j) {
      y[j] = dropout_value(x[j], problem.scale, draw.word[j - i], threshold);
    }
  }
}

void dropout(const DropoutProblem& problem, const float* x, float* y, Stream) {
  static_assert(kPiece % 4 == 0, "a piece must begin with a draw of its own");
  parallel_pieces(problem.count, kPiece,
                  [&](int64_t begin, int64_t end) { cpu_dropout(problem, x, y, begin, end); });
}

}  // namespace cconvnet
