// One step of gradient descent with momentum and weight decay, for one parameter tensor. Bound by memory: two
// tensors are read, two are read and written.
#include "api.h"
#include "parallel.h"

namespace cconvnet {
namespace {

// BF16: the new w is also written rounded.
template <bool BF16, bool NESTEROV>
CCONVNET_CLONES void sgd_range(const Update& update, float lr, float momentum, const float* g, int64_t begin,
                               int64_t end) {
  const float weight_decay = update.problem.weight_decay;
  float *v = update.v, *w = update.w;
  bfloat16* w_bf16 = update.w_bf16;
#pragma omp simd
  for (int64_t i = begin; i < end; ++i) {
    const float step = lr * (g[i] + weight_decay * w[i]);
    v[i] = momentum * v[i] - step;
    w[i] += NESTEROV ? momentum * v[i] - step : v[i];
    if (BF16) w_bf16[i] = to_bfloat16(w[i]);
  }
}

}  // namespace

void sgd_update(const Update& update, const float* g, Stream) {
  if (update.halt && *update.halt != 0) return;
  const float lr = update.rates ? update.rates[0] : update.problem.lr;
  const float momentum = update.rates ? update.rates[1] : update.problem.momentum;
  const bool bf16 = update.w_bf16 != nullptr;
  const auto range = update.problem.nesterov ? (bf16 ? sgd_range<true, true> : sgd_range<false, true>)
                                             : (bf16 ? sgd_range<true, false> : sgd_range<false, false>);
  parallel_ranges(update.problem.count, 1,
                  [&](int, int64_t begin, int64_t end) { range(update, lr, momentum, g, begin, end); });
}

}  // namespace cconvnet
