// One step of gradient descent with momentum and weight decay, for one parameter tensor. Bound by memory: two
// tensors are read, two are read and written.
#include "api.h"
#include "parallel.h"

namespace cconvnet {
namespace {

CCONVNET_CLONES void sgd_range(const SgdProblem& o, const float* g, float* v, float* w, int64_t begin,
                               int64_t end) {
  const float lr = o.lr, momentum = o.momentum, weight_decay = o.weight_decay;
#pragma omp simd
  for (int64_t i = begin; i < end; ++i) {
    v[i] = momentum * v[i] - lr * (g[i] + weight_decay * w[i]);
    w[i] += v[i];
  }
}

}  // namespace

void sgd_update(const SgdProblem& problem, const float* g, float* v, float* w, Stream) {
  parallel_ranges(problem.count, 1,
                  [&](int, int64_t begin, int64_t end) { sgd_range(problem, g, v, w, begin, end); });
}

}  // namespace cconvnet
