// Max and average pooling for Python.
#include "operation.h"

namespace cconvnet::bindings {

// Backward passes with the epilogue as arguments of their own.
template <class T>
void max_finished(const PoolProblem& problem, const T* x, const T* y, const T* dy, T* dx, void* workspace,
                  Stream stream, const T* masked_by, float scale, float* db) {
  maxpool_backward(problem, x, y, dy, input_epilogue(masked_by, scale, db), dx, workspace, stream);
}

template <class T>
void average_finished(const PoolProblem& problem, const T* dy, T* dx, void* workspace, Stream stream,
                      const T* masked_by, float scale, float* db) {
  avgpool_backward(problem, dy, input_epilogue(masked_by, scale, db), dx, workspace, stream);
}

const Operations kOperations = {
    operation("maxpool_forward", maxpool_forward<float>, maxpool_forward<bfloat16>, "problem",
              array("x", &PoolProblem::x_count), array("y", &PoolProblem::y_count), stream()),
    operation("maxpool_backward", max_finished<float>, max_finished<bfloat16>, "problem",
              array("x", &PoolProblem::x_count), array("y", &PoolProblem::y_count),
              array("dy", &PoolProblem::y_count), array("dx", &PoolProblem::x_count),
              workspace(maxpool_backward_workspace), stream(),
              optional(array("masked_by", &PoolProblem::x_count)), with_default("scale", 1),
              with_sums(array("db", &PoolProblem::c))),
    operation("avgpool_forward", avgpool_forward<float>, avgpool_forward<bfloat16>, "problem",
              array("x", &PoolProblem::x_count), array("y", &PoolProblem::y_count), stream()),
    operation("avgpool_backward", average_finished<float>, average_finished<bfloat16>, "problem",
              array("dy", &PoolProblem::y_count), array("dx", &PoolProblem::x_count),
              workspace(avgpool_backward_workspace), stream(),
              optional(array("masked_by", &PoolProblem::x_count)), with_default("scale", 1),
              with_sums(array("db", &PoolProblem::c))),
};

}  // namespace cconvnet::bindings
