// Softmax over the rows of logits[n,k], the cross-entropy loss with the label's rank, and their gradient. A
// row is one thread's work.
#include <cmath>
#include <limits>

#include "api.h"
#include "parallel.h"

namespace cconvnet {
namespace {

constexpr int64_t kExpCost = 16;  // one exponential in elements of memory traffic
constexpr float kNaN = std::numeric_limits<float>::quiet_NaN();

// Writes the row's probabilities and returns log(sum of exp(logit)), in double because a loss near 0 is the
// difference of two large numbers. A NaN among the logits makes all NaN.
double softmax_row(const float* logits, int k, float* probabilities) {
  float largest = logits[0];
  for (int i = 1; i < k; ++i) largest = std::max(largest, logits[i]);
  double sum = 0.0;
  for (int i = 0; i < k; ++i) {
    probabilities[i] = std::exp(logits[i] - largest);
    sum += probabilities[i];
  }
  const float inverse = static_cast<float>(1.0 / sum);
  for (int i = 0; i < k; ++i) probabilities[i] *= inverse;
  return largest + std::log(sum);
}

// How many classes stand before the label; k where a logit is NaN.
int32_t rank_of(const float* logits, int k, int label) {
  const float own = logits[label];
  int before = 0;
  bool nan = false;
  for (int i = 0; i < k; ++i) {
    before += logits[i] > own || (logits[i] == own && i < label);
    nan |= std::isnan(logits[i]);
  }
  return nan ? k : before;
}

}  // namespace

void softmax_forward(const SoftmaxProblem& problem, const float* logits, float* probabilities, Stream) {
  const int k = problem.k;
  parallel_ranges(problem.n, k * kExpCost, [&](int, int64_t begin, int64_t end) {
    for (int64_t row = begin; row < end; ++row) softmax_row(logits + row * k, k, probabilities + row * k);
  });
}

void softmax_cross_entropy_forward(const SoftmaxProblem& problem, const float* logits, const int32_t* labels,
                                   float* probabilities, float* loss, int32_t* rank, Stream) {
  const int k = problem.k;
  parallel_ranges(problem.n, k * kExpCost, [&](int, int64_t begin, int64_t end) {
    for (int64_t row = begin; row < end; ++row) {
      const float* z = logits + row * k;
      const int label = labels[row];
      const bool valid = label >= 0 && label < k;
      // Read before the row is written: probabilities may be the logits' own memory.
      const float own = valid ? z[label] : kNaN;
      rank[row] = valid ? rank_of(z, k, label) : k;
      loss[row] = static_cast<float>(softmax_row(z, k, probabilities + row * k) - own);
    }
  });
}

void softmax_cross_entropy_backward(const SoftmaxProblem& problem, const float* probabilities,
                                    const int32_t* labels, float scale, float* dlogits, Stream) {
  const int k = problem.k;
  parallel_ranges(problem.n, k, [&](int, int64_t begin, int64_t end) {
    for (int64_t row = begin; row < end; ++row) {
      const float* p = probabilities + row * k;
      float* d = dlogits + row * k;
      const int label = labels[row];
      const bool valid = label >= 0 && label < k;
      for (int i = 0; i < k; ++i) d[i] = valid ? scale * (i == label ? p[i] - 1.0f : p[i]) : kNaN;
    }
  });
}

}  // namespace cconvnet
