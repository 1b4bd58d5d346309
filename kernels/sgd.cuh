// One element's step of the momentum update, for sgd.cu and for every kernel that updates a weight as soon as
// it has its gradient.
#pragma once

#include "core/vector.cuh"

namespace cconvnet {

struct SgdRates {
  float lr, momentum, weight_decay;
  bool nesterov;
};

// All that an update reads of WIDTH weights beside their gradients: their last steps, and themselves.
template <int WIDTH>
struct SgdState {
  Vector<WIDTH> v, w;
};

class SgdStep {
 public:
  explicit SgdStep(const Update& update) : update_(update) {}

  bool aligned() const { return cconvnet::aligned(update_.v, update_.w, update_.w_bf16); }

  // Returns whether writing is forbidden. Every thread of a launch gets the same answer.
  __device__ __forceinline__ bool halted() const { return update_.halt && *update_.halt != 0; }

  // Read once, before the thread's first store.
  __device__ __forceinline__ SgdRates rates() const {
    const SgdProblem& problem = update_.problem;
    return {update_.rates ? update_.rates[0] : problem.lr,
            update_.rates ? update_.rates[1] : problem.momentum, problem.weight_decay, problem.nesterov};
  }

  template <int WIDTH>
  __device__ __forceinline__ SgdState<WIDTH> read(int64_t i) const {
    return {load<WIDTH>(update_.v + i), load<WIDTH>(update_.w + i)};
  }

  // A step of weights whose gradients are g. The order of roundings is the same wherever it is computed; fmaf rounds once:
  //   step = lr * fmaf(weight_decay, w, g);  v = fmaf(momentum, v, -step);  w = w + v,
  // or with Nesterov's momentum w = w + fmaf(momentum, v, -step).
  template <int WIDTH>
  static __device__ __forceinline__ void advance(const SgdRates& rates, SgdState<WIDTH>& state,
                                                 const Vector<WIDTH>& g) {
    Vector<WIDTH>&v = state.v, &w = state.w;
#pragma unroll
    for (int j = 0; j < WIDTH; ++j) {
      const float step = rates.lr * fmaf(rates.weight_decay, w.lane[j], g.lane[j]);
      v.lane[j] = fmaf(rates.momentum, v.lane[j], -step);
      w.lane[j] += rates.nesterov ? fmaf(rates.momentum, v.lane[j], -step) : v.lane[j];
    }
  }

  // Updates weights i .. i+WIDTH-1, whose gradients are g and whose state has been read.
  template <int WIDTH>
  __device__ __forceinline__ void apply(const SgdRates& rates, int64_t i, SgdState<WIDTH> state,
                                        const Vector<WIDTH>& g) const {
    advance(rates, state, g);
    store(update_.v + i, state.v);
    store(update_.w + i, state.w);
    if (update_.w_bf16) store(update_.w_bf16 + i, state.w);
  }

 private:
  Update update_;
};

}  // namespace cconvnet
