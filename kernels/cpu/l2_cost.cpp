// The squared distance of each row of x[n,k] from its target, and its gradient. A row is one thread's work.
#include "api.h"
#include "parallel.h"

namespace cconvnet {
namespace {

// In double, since a row may be long and its values of any sign.
template <class T>
double squared_distance(const T* x, const float* target, int k) {
  double sum = 0.0;
  for (int i = 0; i < k; ++i) {
    const double distance = double{to_float(x[i])} - target[i];
    sum += distance * distance;
  }
  return sum;
}

template <class T>
CCONVNET_CLONES void gradient_range(const T* x, const float* target, float scale, T* dx, int64_t begin,
                                    int64_t end) {
#pragma omp simd
  for (int64_t i = begin; i < end; ++i) dx[i] = from_float<T>(scale * (to_float(x[i]) - target[i]));
}

}  // namespace

template <class T>
void l2_cost_forward(const L2CostProblem& problem, const T* x, const float* target, float* loss, Stream) {
  const int k = problem.k;
  parallel_ranges(problem.n, k, [&](int, int64_t begin, int64_t end) {
    for (int64_t row = begin; row < end; ++row) {
      loss[row] = static_cast<float>(0.5 * squared_distance(x + row * k, target + row * k, k));
    }
  });
}

template <class T>
void l2_cost_backward(const L2CostProblem& problem, const T* x, const float* target, float scale, T* dx,
                      Stream) {
  parallel_ranges(problem.count(), 1,
                  [&](int, int64_t begin, int64_t end) { gradient_range(x, target, scale, dx, begin, end); });
}

template void l2_cost_forward(const L2CostProblem&, const float*, const float*, float*, Stream);
template void l2_cost_forward(const L2CostProblem&, const bfloat16*, const float*, float*, Stream);
template void l2_cost_backward(const L2CostProblem&, const float*, const float*, float, float*, Stream);
template void l2_cost_backward(const L2CostProblem&, const bfloat16*, const float*, float, bfloat16*, Stream);

}  // namespace cconvnet
