// cuda-convnet's neurons, f(x) and f'(x), for the CUDA kernels and the CPU build alike.
//
// The formulas do not overflow, and cancel only where a derivative is about to change its sign. exp is only taken of values at most 0. The derivatives of tanh
// and logistic are computed from that exponential, not from 1 - y, which has lost its digits where the neuron
// saturates. Every f passes a NaN on, so that a fault of an earlier layer stays visible.
#pragma once

#include <cmath>
#include <type_traits>

#include "core/host_device.h"
#include "problem.h"

namespace cconvnet {

// max(0, x), but NaN stays NaN. Never -0.
CCONVNET_HOST_DEVICE float relu(float x) {
  return x <= 0.0f ? 0.0f : x;
}

CCONVNET_HOST_DEVICE float logistic(float x) {
  const float e = expf(-fabsf(x));
  return (x >= 0.0f ? 1.0f : e) / (1.0f + e);
}

// f(x). The neuron is a template parameter so that a loop over elements holds no branch on it.
template <Neuron NEURON>
CCONVNET_HOST_DEVICE float neuron_value(float x, float a, float b) {
  switch (NEURON) {
    case Neuron::linear:
      return a * x + b;
    case Neuron::relu:
      return relu(x);
    case Neuron::tanh:
      return a * tanhf(b * x);
    case Neuron::logistic:
      return logistic(x);
    case Neuron::softrelu:
      return relu(x) + log1pf(expf(-fabsf(x)));
    case Neuron::abs:
      return fabsf(x);
    case Neuron::square:
      return x * x;
    case Neuron::sqrt:
      return sqrtf(x);
    case Neuron::brelu:
      return x >= a ? a : relu(x);
    case Neuron::silu:
      return x * logistic(x);
  }
  return x;
}

// f'(x), where y = f(x). At a kink it is 0: relu and abs at 0, brelu at 0 and at a.
template <Neuron NEURON>
CCONVNET_HOST_DEVICE float neuron_derivative(float x, float y, float a, float b) {
  switch (NEURON) {
    case Neuron::linear:
      return a;
    case Neuron::relu:
      return x > 0.0f ? 1.0f : 0.0f;
    case Neuron::tanh: {
      // 1 - tanh(u)^2 = 4 e / (1 + e)^2 with e = exp(-2 |u|).
      const float e = expf(-2.0f * fabsf(b * x));
      return a * b * (4.0f * e) / ((1.0f + e) * (1.0f + e));
    }
    case Neuron::logistic: {
      const float e = expf(-fabsf(x));
      return e / ((1.0f + e) * (1.0f + e));
    }
    case Neuron::softrelu:
      return logistic(x);
    case Neuron::abs:
      return x > 0.0f ? 1.0f : (x < 0.0f ? -1.0f : 0.0f);
    case Neuron::square:
      return 2.0f * x;
    case Neuron::sqrt:
      return 0.5f / y;
    case Neuron::brelu:
      return x > 0.0f && x < a ? 1.0f : 0.0f;
    case Neuron::silu: {
      // With f = logistic: f + x f (1 - f). Near its zero at -1.28 the sum 1 + x is exact.
      const float e = expf(-fabsf(x));
      return (x >= 0.0f ? 1.0f + e + x * e : e * (1.0f + x + e)) / ((1.0f + e) * (1.0f + e));
    }
  }
  return 0.0f;
}

// Calls function(std::integral_constant<Neuron, neuron>()): the one place where a run-time neuron becomes a
// template parameter.
template <class Function>
void dispatch_neuron(Neuron neuron, const Function& function) {
  switch (neuron) {
    case Neuron::linear:
      return function(std::integral_constant<Neuron, Neuron::linear>());
    case Neuron::relu:
      return function(std::integral_constant<Neuron, Neuron::relu>());
    case Neuron::tanh:
      return function(std::integral_constant<Neuron, Neuron::tanh>());
    case Neuron::logistic:
      return function(std::integral_constant<Neuron, Neuron::logistic>());
    case Neuron::softrelu:
      return function(std::integral_constant<Neuron, Neuron::softrelu>());
    case Neuron::abs:
      return function(std::integral_constant<Neuron, Neuron::abs>());
    case Neuron::square:
      return function(std::integral_constant<Neuron, Neuron::square>());
    case Neuron::sqrt:
      return function(std::integral_constant<Neuron, Neuron::sqrt>());
    case Neuron::brelu:
      return function(std::integral_constant<Neuron, Neuron::brelu>());
    case Neuron::silu:
      return function(std::integral_constant<Neuron, Neuron::silu>());
  }
}

}  // namespace cconvnet
