// Names of enumerators in Python, by which arguments are read and problems are printed.
#pragma once

#include <cstddef>
#include <stdexcept>
#include <string>
#include <utility>

#include "problem.h"

namespace cconvnet {

template <class Enum>
using Name = std::pair<const char*, Enum>;

constexpr Name<Rounding> kRoundings[] = {{"floor", Rounding::floor}, {"ceil", Rounding::ceil}};
constexpr Name<Precision> kPrecisions[] = {{"fp32", Precision::fp32},
                                           {"fp32x3", Precision::fp32x3},
                                           {"tf32", Precision::tf32},
                                           {"bf16", Precision::bf16}};
constexpr Name<LrnRegion> kRegions[] = {{"across_channels", LrnRegion::across_channels},
                                        {"same_map", LrnRegion::same_map}};
constexpr Name<Neuron> kNeurons[] = {{"linear", Neuron::linear},     {"relu", Neuron::relu},
                                     {"tanh", Neuron::tanh},         {"logistic", Neuron::logistic},
                                     {"softrelu", Neuron::softrelu}, {"abs", Neuron::abs},
                                     {"square", Neuron::square},     {"sqrt", Neuron::sqrt},
                                     {"brelu", Neuron::brelu},       {"silu", Neuron::silu}};

template <class Enum, size_t COUNT>
Enum from_name(const Name<Enum> (&names)[COUNT], const char* argument, const std::string& given) {
  std::string allowed;
  for (const auto& [name, value] : names) {
    if (given == name) return value;
    allowed += std::string(allowed.empty() ? "" : ", ") + name;
  }
  throw std::invalid_argument(std::string(argument) + " must be one of " + allowed + ", not '" + given + "'");
}

template <class Enum, size_t COUNT>
const char* to_name(const Name<Enum> (&names)[COUNT], Enum wanted) {
  for (const auto& [name, value] : names) {
    if (value == wanted) return name;
  }
  return "?";
}

}  // namespace cconvnet
