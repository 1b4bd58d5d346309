// The momentum update, with the roundings of kernels/sgd.cu.
#include <cmath>

#include "api.h"
#include "parallel.h"

namespace cconvnet {

CCONVNET_CLONES void cpu_sgd_update(const SgdProblem& problem, const float* g, float* v, float* w,
                                    int64_t count) {
  const float lr = problem.lr, momentum = problem.momentum, weight_decay = problem.weight_decay;
#pragma omp simd
  for (int64_t i = 0; i < count; ++i) {
    const float step = lr * __builtin_fmaf(weight_decay, w[i], g[i]);
    v[i] = __builtin_fmaf(momentum, v[i], -step);
    w[i] += v[i];
  }
}

void sgd_update(const SgdProblem& problem, const float* g, float* v, float* w, Stream) {
  parallel_pieces(problem.count, kPiece, [&](int64_t begin, int64_t end) {
    cpu_sgd_update(problem, g + begin, v + begin, w + begin, end - begin);
  });
}

}  // namespace cconvnet
