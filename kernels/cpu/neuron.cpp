// Neurons, elementwise, by the formulas of neuron.h.
#include "neuron.h"

#include "api.h"
#include "parallel.h"

namespace cconvnet {
namespace {

// ReLU and its gradient run after nearly every layer and are bound by memory: vector code for both.
CCONVNET_CLONES void relu_forward_range(const float* x, float* y, int64_t begin, int64_t end) {
#pragma omp simd
  for (int64_t i = begin; i < end; ++i) y[i] = relu(x[i]);
}

CCONVNET_CLONES void relu_backward_range(const float* y, const float* dy, float* dx, int64_t begin,
                                         int64_t end) {
#pragma omp simd
  for (int64_t i = begin; i < end; ++i) dx[i] = y[i] > 0.0f ? dy[i] : 0.0f;
}

// exp and tanh cost tens of elements' memory traffic, so a thread is worth waking for fewer elements.
constexpr int64_t kNeuronCost = 8;

}  // namespace

void relu_forward(int count, const float* x, float* y, Stream) {
  parallel_ranges(count, 1, [&](int, int64_t begin, int64_t end) { relu_forward_range(x, y, begin, end); });
}

void relu_backward(int count, const float* y, const float* dy, float* dx, Stream) {
  parallel_ranges(count, 1,
                  [&](int, int64_t begin, int64_t end) { relu_backward_range(y, dy, dx, begin, end); });
}

void neuron_forward(const NeuronProblem& problem, const float* x, float* y, Stream) {
  dispatch_neuron(problem.neuron, [&](auto neuron) {
    parallel_ranges(problem.count, kNeuronCost, [&](int, int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) y[i] = neuron_value<neuron()>(x[i], problem.a, problem.b);
    });
  });
}

void neuron_backward(const NeuronProblem& problem, const float* x, const float* y, const float* dy, float* dx,
                     Stream) {
  dispatch_neuron(problem.neuron, [&](auto neuron) {
    parallel_ranges(problem.count, kNeuronCost, [&](int, int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) {
        dx[i] = dy[i] * neuron_derivative<neuron()>(x[i], y[i], problem.a, problem.b);
      }
    });
  });
}

}  // namespace cconvnet
