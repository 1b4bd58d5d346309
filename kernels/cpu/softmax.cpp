// Softmax and cross-entropy: a thread takes a row.
#include <cmath>
#include <limits>

#include "api.h"
#include "parallel.h"

namespace cconvnet {
namespace {

// Writes the row's probabilities and returns log(sum of exp(logit - largest)); `largest` comes back too.
float softmax_row(const float* logits, int k, float* probabilities, float& largest) {
  largest = logits[0];
  for (int i = 1; i < k; ++i) largest = std::max(largest, logits[i]);
  float sum = 0.0f;
  for (int i = 0; i < k; ++i) {
    probabilities[i] = expf(logits[i] - largest);
    sum += probabilities[i];
  }
  for (int i = 0; i < k; ++i) probabilities[i] /= sum;
  return logf(sum);
}

// How many classes stand before the label; k if the label or a logit is no number.
int32_t rank_of(const float* logits, int k, int32_t label) {
  if (label < 0 || label >= k) return k;
  int32_t rank = 0;
  for (int i = 0; i < k; ++i) {
    if (std::isnan(logits[i])) return k;
    rank += logits[i] > logits[label] || (logits[i] == logits[label] && i < label);
  }
  return rank;
}

}  // namespace

void softmax_forward(const SoftmaxProblem& problem, const float* logits, float* probabilities, Stream) {
  parallel_for(problem.n, [&](int64_t n) {
    float largest;
    softmax_row(logits + n * problem.k, problem.k, probabilities + n * problem.k, largest);
  });
}

void softmax_cross_entropy_forward(const SoftmaxProblem& problem, const float* logits, const int32_t* labels,
                                   float* probabilities, float* loss, int32_t* rank, Stream) {
  parallel_for(problem.n, [&](int64_t n) {
    const float* const row = logits + n * problem.k;
    const int32_t label = labels[n];
    const bool known = label >= 0 && label < problem.k;
    rank[n] = rank_of(row, problem.k, label);
    float largest;
    const float log_sum = softmax_row(row, problem.k, probabilities + n * problem.k, largest);
    loss[n] = known ? log_sum - (row[label] - largest) : std::numeric_limits<float>::quiet_NaN();
  });
}

void softmax_cross_entropy_backward(const SoftmaxProblem& problem, const float* probabilities,
                                    const int32_t* labels, float scale, float* dlogits, Stream) {
  parallel_for(problem.n, [&](int64_t n) {
    const float* const row = probabilities + n * problem.k;
    float* const target = dlogits + n * problem.k;
    const int32_t label = labels[n];
    const bool known = label >= 0 && label < problem.k;
    for (int i = 0; i < problem.k; ++i) {
      target[i] =
          known ? scale * (row[i] - (i == label ? 1.0f : 0.0f)) : std::numeric_limits<float>::quiet_NaN();
    }
  });
}

}  // namespace cconvnet
