// An InputEpilogue by the operations that it fuses, for kernels that do not apply it themselves.
#pragma once

#include "api.h"

namespace cconvnet {

// Applies it to dx[rows,k], in place. `workspace` is that of bias_grad.
template <class T>
void apply(const InputEpilogue& epilogue, const BiasProblem& problem, T* dx, void* workspace, Stream stream) {
  if (!epilogue.db) return;
  if (epilogue.masked_by) {
    relu_bias_backward(problem, static_cast<const T*>(epilogue.masked_by), dx, epilogue.scale, dx,
                       epilogue.db, workspace, stream);
  } else {
    bias_grad(problem, dx, epilogue.db, workspace, stream);
  }
}

inline void apply(const InputEpilogue& epilogue, Precision precision, const BiasProblem& problem, void* dx,
                  void* workspace, Stream stream) {
  if (precision == Precision::bf16) {
    apply(epilogue, problem, static_cast<bfloat16*>(dx), workspace, stream);
  } else {
    apply(epilogue, problem, static_cast<float*>(dx), workspace, stream);
  }
}

// The gradient of an input as a matrix of pixels and channels. Problem is any with x.
template <class Problem>
BiasProblem pixels_of(const Problem& problem) {
  return {problem.n * problem.h * problem.w, problem.c};
}

}  // namespace cconvnet
