// Neurons, elementwise, with the formulas of neuron.h.
#include "neuron.h"

#include "api.h"
#include "floats.h"
#include "parallel.h"

namespace cconvnet {
namespace {

// ReLU and its gradient run after nearly every layer and are bound by memory: vector code for both.
template <class T>
CCONVNET_CLONES void relu_forward_range(const T* x, T* y, int64_t begin, int64_t end) {
#pragma omp simd
  for (int64_t i = begin; i < end; ++i) y[i] = unrounded<T>(relu(to_float(x[i])));
}

template <class T>
CCONVNET_CLONES void relu_backward_range(const T* y, const T* dy, T* dx, int64_t begin, int64_t end) {
#pragma omp simd
  for (int64_t i = begin; i < end; ++i) dx[i] = unrounded<T>(to_float(y[i]) > 0.0f ? to_float(dy[i]) : 0.0f);
}

// exp and tanh cost as much as the memory traffic of tens of elements, so fewer elements justify a thread.
constexpr int64_t kNeuronCost = 8;

}  // namespace

template <class T>
void relu_forward(int count, const T* x, T* y, Stream) {
  parallel_ranges(count, 1, [&](int, int64_t begin, int64_t end) { relu_forward_range(x, y, begin, end); });
}

template <class T>
void relu_backward(int count, const T* y, const T* dy, T* dx, Stream) {
  parallel_ranges(count, 1,
                  [&](int, int64_t begin, int64_t end) { relu_backward_range(y, dy, dx, begin, end); });
}

template <class T>
void neuron_forward(const NeuronProblem& problem, const T* x, T* y, Stream) {
  dispatch_neuron(problem.neuron, [&](auto neuron) {
    parallel_ranges(problem.count, kNeuronCost, [&](int, int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) {
        y[i] = from_float<T>(neuron_value<neuron()>(to_float(x[i]), problem.a, problem.b));
      }
    });
  });
}

template <class T>
void neuron_backward(const NeuronProblem& problem, const T* x, const T* y, const T* dy, T* dx, Stream) {
  dispatch_neuron(problem.neuron, [&](auto neuron) {
    parallel_ranges(problem.count, kNeuronCost, [&](int, int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) {
        const float slope = neuron_derivative<neuron()>(to_float(x[i]), to_float(y[i]), problem.a, problem.b);
        dx[i] = from_float<T>(to_float(dy[i]) * slope);
      }
    });
  });
}

template void relu_forward(int, const float*, float*, Stream);
template void relu_forward(int, const bfloat16*, bfloat16*, Stream);
template void relu_backward(int, const float*, const float*, float*, Stream);
template void relu_backward(int, const bfloat16*, const bfloat16*, bfloat16*, Stream);
template void neuron_forward(const NeuronProblem&, const float*, float*, Stream);
template void neuron_forward(const NeuronProblem&, const bfloat16*, bfloat16*, Stream);
template void neuron_backward(const NeuronProblem&, const float*, const float*, const float*, float*, Stream);
template void neuron_backward(const NeuronProblem&, const bfloat16*, const bfloat16*, const bfloat16*,
                              bfloat16*, Stream);

}  // namespace cconvnet
