// The output of a convolution in its place in a concatenation (ConvProblem): rows of channels that are copied
// there from where a kernel left them, in the pass that applies the ReLU.
#pragma once

#include "api.h"
#include "floats.h"
#include "neuron.h"
#include "parallel.h"

namespace cconvnet {

// Rows of k elements each, `from_pitch` and `to_pitch` elements apart; in place allowed.
template <class T>
CCONVNET_CLONES void place_rows(const T* from, int64_t from_pitch, int64_t rows, int k, bool applies_relu,
                                T* to, int64_t to_pitch) {
  for (int64_t row = 0; row < rows; ++row, from += from_pitch, to += to_pitch) {
    if (applies_relu) {
#pragma omp simd
      for (int i = 0; i < k; ++i) to[i] = unrounded<T>(relu(to_float(from[i])));
    } else {
#pragma omp simd
      for (int i = 0; i < k; ++i) to[i] = from[i];
    }
  }
}

// The place of a convolution's output, and whether a ReLU is applied on the way there.
struct Place {
  const ConvProblem& problem;
  bool relu;
  void* y;

  // Copies `rows` dense rows to the place of those from `first` on.
  void take(const void* from, int64_t first, int64_t rows) const {
    if (problem.precision == Precision::bf16) {
      take(static_cast<const bfloat16*>(from), first, rows);
    } else {
      take(static_cast<const float*>(from), first, rows);
    }
  }

 private:
  template <class T>
  void take(const T* from, int64_t first, int64_t rows) const {
    T* const to = static_cast<T*>(y) + first * problem.y_pitch + problem.y_first;
    place_rows(from, problem.k, rows, problem.k, relu, to, problem.y_pitch);
  }
};

}  // namespace cconvnet
