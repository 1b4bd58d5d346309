// Softmax over the rows of logits[n,k], the cross-entropy loss with the label's rank, and their gradient. A
// row is one thread's work.
#include <algorithm>
#include <cmath>
#include <limits>

#include "api.h"
#include "parallel.h"

namespace cconvnet {
namespace {

constexpr int64_t kExpCost = 16;  // of one exponential, in elements of memory traffic
constexpr float kNaN = std::numeric_limits<float>::quiet_NaN();

// Writes the row's probabilities and returns log(sum of exp(logit)), in double because a loss near 0 is the
// difference of two large numbers. A NaN among the logits makes all NaN.
template <class T>
double softmax_row(const T* logits, int k, float* probabilities) {
  float largest = to_float(logits[0]);
  for (int i = 1; i < k; ++i) largest = std::max(largest, to_float(logits[i]));
  double sum = 0.0;
  for (int i = 0; i < k; ++i) {
    probabilities[i] = std::exp(to_float(logits[i]) - largest);
    sum += probabilities[i];
  }
  const float inverse = static_cast<float>(1.0 / sum);
  for (int i = 0; i < k; ++i) probabilities[i] *= inverse;
  return largest + std::log(sum);
}

// The number of classes before the label; k where a logit is NaN.
template <class T>
int32_t rank_of(const T* logits, int k, int label) {
  const float own = to_float(logits[label]);
  int before = 0;
  bool nan = false;
  for (int i = 0; i < k; ++i) {
    const float logit = to_float(logits[i]);
    before += logit > own || (logit == own && i < label);
    nan |= std::isnan(logit);
  }
  return nan ? k : before;
}

bool is_ignored(const SoftmaxProblem& problem, int label) {
  return problem.ignores && label == problem.ignore;
}

// The sum of a row's logits, each times its target.
template <class T>
double target_logit(const SoftmaxProblem& problem, const T* logits, int label) {
  const double own = to_float(logits[label]), smoothing = problem.smoothing;
  if (smoothing == 0) return own;  // others may be infinite
  double sum = 0.0;
  for (int i = 0; i < problem.k; ++i) sum += to_float(logits[i]);
  return (1 - smoothing) * own + smoothing / problem.k * sum;
}

// Softmax, loss and rank of one row. The probabilities may overwrite its logits.
template <class T>
void cross_entropy_row(const SoftmaxProblem& problem, const T* logits, int label, float* probabilities,
                       float* loss, int32_t* rank) {
  const int k = problem.k;
  const bool valid = label >= 0 && label < k;
  const double own = valid ? target_logit(problem, logits, label) : kNaN;
  *rank = valid ? rank_of(logits, k, label) : k;
  *loss = static_cast<float>(softmax_row(logits, k, probabilities) - own);
  if (is_ignored(problem, label)) {
    *rank = 0;
    *loss = 0.0f;
  }
}

template <class T>
void gradient_row(const SoftmaxProblem& problem, const float* probabilities, int label, float scale,
                  T* dlogits) {
  const int k = problem.k;
  if (is_ignored(problem, label)) {
    std::fill(dlogits, dlogits + k, from_float<T>(0.0f));
    return;
  }
  const bool valid = label >= 0 && label < k;
  const float others = problem.smoothing / static_cast<float>(k), own = 1.0f - problem.smoothing + others;
  for (int i = 0; i < k; ++i) {
    const float target = i == label ? own : others;
    dlogits[i] = from_float<T>(valid ? scale * (probabilities[i] - target) : kNaN);
  }
}

// Calls function(row, its first element) for all rows, on all threads.
template <class Function>
void for_rows(const SoftmaxProblem& problem, int64_t cost, const Function& function) {
  parallel_ranges(problem.n, problem.k * cost, [&](int, int64_t begin, int64_t end) {
    for (int64_t row = begin; row < end; ++row) function(row, row * problem.k);
  });
}

}  // namespace

template <class T>
void softmax_forward(const SoftmaxProblem& problem, const T* logits, float* probabilities, Stream) {
  for_rows(problem, kExpCost,
           [&](int64_t, int64_t offset) { softmax_row(logits + offset, problem.k, probabilities + offset); });
}

template <class T>
void softmax_cross_entropy_forward(const SoftmaxProblem& problem, const T* logits, const int32_t* labels,
                                   float* probabilities, float* loss, int32_t* rank, Stream) {
  for_rows(problem, kExpCost, [&](int64_t row, int64_t offset) {
    cross_entropy_row(problem, logits + offset, labels[row], probabilities + offset, loss + row, rank + row);
  });
}

template <class T>
void softmax_cross_entropy_backward(const SoftmaxProblem& problem, const float* probabilities,
                                    const int32_t* labels, float scale, T* dlogits, Stream) {
  for_rows(problem, 1, [&](int64_t row, int64_t offset) {
    gradient_row(problem, probabilities + offset, labels[row], scale, dlogits + offset);
  });
}

template <class T>
void softmax_cross_entropy(const SoftmaxProblem& problem, const T* logits, const int32_t* labels, float scale,
                           float* probabilities, float* loss, int32_t* rank, T* dlogits, Stream) {
  for_rows(problem, kExpCost, [&](int64_t row, int64_t offset) {
    cross_entropy_row(problem, logits + offset, labels[row], probabilities + offset, loss + row, rank + row);
    gradient_row(problem, probabilities + offset, labels[row], scale, dlogits + offset);
  });
}

void watch_losses(int count, const float* loss, int32_t* halt, Stream) {
  *halt = std::all_of(loss, loss + count, [](float value) { return std::isfinite(value); }) ? 0 : 1;
}

template void softmax_forward(const SoftmaxProblem&, const float*, float*, Stream);
template void softmax_forward(const SoftmaxProblem&, const bfloat16*, float*, Stream);
template void softmax_cross_entropy_forward(const SoftmaxProblem&, const float*, const int32_t*, float*,
                                            float*, int32_t*, Stream);
template void softmax_cross_entropy_forward(const SoftmaxProblem&, const bfloat16*, const int32_t*, float*,
                                            float*, int32_t*, Stream);
template void softmax_cross_entropy_backward(const SoftmaxProblem&, const float*, const int32_t*, float,
                                             float*, Stream);
template void softmax_cross_entropy_backward(const SoftmaxProblem&, const float*, const int32_t*, float,
                                             bfloat16*, Stream);
template void softmax_cross_entropy(const SoftmaxProblem&, const float*, const int32_t*, float, float*,
                                    float*, int32_t*, float*, Stream);
template void softmax_cross_entropy(const SoftmaxProblem&, const bfloat16*, const int32_t*, float, float*,
                                    float*, int32_t*, bfloat16*, Stream);

}  // namespace cconvnet
