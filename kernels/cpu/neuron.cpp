// The neurons, element by element; their formulas stand in kernels/neuron.h.
#include "neuron.h"

#include "api.h"
#include "parallel.h"

namespace cconvnet {

CCONVNET_CLONES void cpu_relu_forward(const float* x, float* y, int64_t count) {
#pragma omp simd
  for (int64_t i = 0; i < count; ++i) y[i] = relu(x[i]);
}

CCONVNET_CLONES void cpu_relu_backward(const float* y, const float* dy, float* dx, int64_t count) {
#pragma omp simd
  for (int64_t i = 0; i < count; ++i) dx[i] = y[i] > 0.0f ? dy[i] : 0.0f;
}

void relu_forward(int count, const float* x, float* y, Stream) {
  parallel_pieces(count, kPiece,
                  [&](int64_t begin, int64_t end) { cpu_relu_forward(x + begin, y + begin, end - begin); });
}

void relu_backward(int count, const float* y, const float* dy, float* dx, Stream) {
  parallel_pieces(count, kPiece, [&](int64_t begin, int64_t end) {
    cpu_relu_backward(y + begin, dy + begin, dx + begin, end - begin);
  });
}

void neuron_forward(const NeuronProblem& problem, const float* x, float* y, Stream) {
  dispatch_neuron(problem.neuron, [&](auto neuron) {
    parallel_pieces(problem.count, kPiece, [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) y[i] = neuron_value<neuron()>(x[i], problem.a, problem.b);
    });
  });
}

void neuron_backward(const NeuronProblem& problem, const float* x, const float* y, const float* dy, float* dx,
                     Stream) {
  dispatch_neuron(problem.neuron, [&](auto neuron) {
    parallel_pieces(problem.count, kPiece, [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) {
        dx[i] = dy[i] * neuron_derivative<neuron()>(x[i], y[i], problem.a, problem.b);
      }
    });
  });
}

}  // namespace cconvnet
