// The momentum update, v = momentum*v - lr*(g + weight_decay*w); w = w + v: an elementwise kernel
// (vector.cuh).
#include "vector.cuh"

namespace cconvnet {
namespace {

// The order of roundings, to be the same wherever the update is computed; fmaf rounds once:
//   step = lr * fmaf(weight_decay, w, g);  v = fmaf(momentum, v, -step);  w = w + v.
struct SgdUpdate {
  float lr, momentum, weight_decay;
  const float* g;
  float* v;
  float* w;

  template <int WIDTH>
  __device__ void apply(int64_t i) const {
    const Vector<WIDTH> gradient = load<WIDTH>(g + i);
    Vector<WIDTH> velocity = load<WIDTH>(v + i);
    Vector<WIDTH> weight = load<WIDTH>(w + i);
#pragma unroll
    for (int j = 0; j < WIDTH; ++j) {
      const float step = lr * fmaf(weight_decay, weight.lane[j], gradient.lane[j]);
      velocity.lane[j] = fmaf(momentum, velocity.lane[j], -step);
      weight.lane[j] += velocity.lane[j];
    }
    store(v + i, velocity);
    store(w + i, weight);
  }
};

}  // namespace

void sgd_update(const SgdProblem& problem, const float* g, float* v, float* w, Stream stream) {
  launch_elementwise(problem.count, aligned(g, v, w), stream,
                     SgdUpdate{problem.lr, problem.momentum, problem.weight_decay, g, v, w});
}

}  // namespace cconvnet
