// ReLU and the other neurons of cuda-convnet, forward and backward: elementwise kernels (core/vector.cuh)
// over the formulas of neuron.h.
#include "neuron.h"

#include "core/vector.cuh"

namespace cconvnet {
namespace {

// Reads y alone: dx is dy where y is positive, and 0 elsewhere.
template <class T>
struct ReluBackward {
  const T* y;
  const T* dy;
  T* dx;

  template <int WIDTH>
  __device__ void apply(int64_t i) const {
    const Vector<WIDTH> out = load<WIDTH>(y + i);
    Vector<WIDTH> gradient = load<WIDTH>(dy + i);
#pragma unroll
    for (int j = 0; j < WIDTH; ++j) gradient.lane[j] = out.lane[j] > 0.0f ? gradient.lane[j] : 0.0f;
    store(dx + i, gradient);
  }
};

template <Neuron NEURON, class T>
struct NeuronForward {
  float a, b;
  const T* x;
  T* y;

  template <int WIDTH>
  __device__ void apply(int64_t i) const {
    Vector<WIDTH> value = load<WIDTH>(x + i);
#pragma unroll
    for (int j = 0; j < WIDTH; ++j) value.lane[j] = neuron_value<NEURON>(value.lane[j], a, b);
    store(y + i, value);
  }
};

// No derivative uses both x and y; the compiler drops the load of the other.
template <Neuron NEURON, class T>
struct NeuronBackward {
  float a, b;
  const T* x;
  const T* y;
  const T* dy;
  T* dx;

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

template <class T>
void relu_forward(int count, const T* x, T* y, Stream stream) {
  launch_elementwise<T>(count, aligned(x, y), stream, NeuronForward<Neuron::relu, T>{0, 0, x, y});
}

template <class T>
void relu_backward(int count, const T* y, const T* dy, T* dx, Stream stream) {
  launch_elementwise<T>(count, aligned(y, dy, dx), stream, ReluBackward<T>{y, dy, dx});
}

template <class T>
void neuron_forward(const NeuronProblem& problem, const T* x, T* y, Stream stream) {
  dispatch_neuron(problem.neuron, [&](auto neuron) {
    launch_elementwise<T>(problem.count, aligned(x, y), stream,
                          NeuronForward<decltype(neuron)::value, T>{problem.a, problem.b, x, y});
  });
}

template <class T>
void neuron_backward(const NeuronProblem& problem, const T* x, const T* y, const T* dy, T* dx,
                     Stream stream) {
  dispatch_neuron(problem.neuron, [&](auto neuron) {
    launch_elementwise<T>(problem.count, aligned(x, y, dy, dx), stream,
                          NeuronBackward<decltype(neuron)::value, T>{problem.a, problem.b, x, y, dy, dx});
  });
}

template void relu_forward(int, const float*, float*, Stream);
template void relu_backward(int, const float*, const float*, float*, Stream);
template void neuron_forward(const NeuronProblem&, const float*, float*, Stream);
template void neuron_backward(const NeuronProblem&, const float*, const float*, const float*, float*, Stream);

template void relu_forward(int, const bfloat16*, bfloat16*, Stream);
template void relu_backward(int, const bfloat16*, const bfloat16*, bfloat16*, Stream);
template void neuron_forward(const NeuronProblem&, const bfloat16*, bfloat16*, Stream);
template void neuron_backward(const NeuronProblem&, const bfloat16*, const bfloat16*, const bfloat16*,
                              bfloat16*, Stream);

}  // namespace cconvnet
