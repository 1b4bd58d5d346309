// The momentum update (sgd.cuh) of one parameter tensor: an elementwise kernel (core/vector.cuh).
#include "sgd.cuh"

namespace cconvnet {
namespace {

struct SgdUpdate {
  SgdStep step;
  const float* g;

  template <int WIDTH>
  __device__ void apply(int64_t i) const {
    if (step.halted()) return;
    step.apply(step.rates(), i, step.read<WIDTH>(i), load<WIDTH>(g + i));
  }
};

}  // namespace

void sgd_update(const Update& update, const float* g, Stream stream) {
  const SgdStep step(update);
  launch_elementwise<float>(update.problem.count, aligned(g) && step.aligned(), stream, SgdUpdate{step, g});
}

}  // namespace cconvnet
