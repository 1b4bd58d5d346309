// ReLU and cuda-convnet's other neurons, forward and backward: elementwise kernels (vector.cuh) over the
// formulas of neuron.h.
#include "neuron.h"

#include "vector.cuh"

namespace cconvnet {
namespace {

struct ReluBackward {
  const float* y;
  const float* dy;
  float* dx;

  template <int WIDTH>
  __device__ void apply(int64_t i) const {
    const Vector<WIDTH> out = load<WIDTH>(y + i);
    Vector<WIDTH> gradient = load<WIDTH>(dy + i);
#pragma unroll
    for (int j = 0; j < WIDTH; ++j) gradient.lane[j] = out.lane[j] > 0.0f ? gradient.lane[j] : 0.0f;
    store(dx + i, gradient);
  }
};

template <Neuron NEURON>
struct NeuronForward {
  float a, b;
  const float* x;
  float* y;

  template <int WIDTH>
  __device__ void apply(int64_t i) const {
    Vector<WIDTH> value = load<WIDTH>(x + i);
#pragma unroll
    for (int j = 0; j < WIDTH; ++j) value.lane[j] = neuron_value<NEURON>(value.lane[j], a, b);
    store(y + i, value);
  }
};

// No derivative uses both x and y; the compiler drops the load of the other.
template <Neuron NEURON>
struct NeuronBackward {
  float a, b;
  const float* x;
  const float* y;
  const float* dy;
  float* dx;

  template <int WIDTH>
  __device__ void apply(int64_t i) const {
    const Vector<WIDTH> in = load<WIDTH>(x + i);
    const Vector<WIDTH> out = load<WIDTH>(y + i);
    Vector<WIDTH> gradient = load<WIDTH>(dy + i);
#pragma unroll
    for (int j = 0; j < WIDTH; ++j) {
      gradient.lane[j] *= neuron_derivative<NEURON>(in.lane[j], out.lane[j], a, b);
    }
    store(dx + i, gradient);
  }
};

}  // namespace

void relu_forward(int count, const float* x, float* y, Stream stream) {
  launch_elementwise(count, aligned(x, y), stream, NeuronForward<Neuron::relu>{0, 0, x, y});
}

void relu_backward(int count, const float* y, const float* dy, float* dx, Stream stream) {
  launch_elementwise(count, aligned(y, dy, dx), stream, ReluBackward{y, dy, dx});
}

void neuron_forward(const NeuronProblem& problem, const float* x, float* y, Stream stream) {
  dispatch_neuron(problem.neuron, [&](auto neuron) {
    launch_elementwise(problem.count, aligned(x, y), stream,
                       NeuronForward<decltype(neuron)::value>{problem.a, problem.b, x, y});
  });
}

void neuron_backward(const NeuronProblem& problem, const float* x, const float* y, const float* dy, float* dx,
                     Stream stream) {
  dispatch_neuron(problem.neuron, [&](auto neuron) {
    launch_elementwise(problem.count, aligned(x, y, dy, dx), stream,
                       NeuronBackward<decltype(neuron)::value>{problem.a, problem.b, x, y, dy, dx});
  });
}

}  // namespace cconvnet
