// Response normalisation fused with max pooling for Python.
#include "operation.h"

namespace cconvnet::bindings {

// lrn_maxpool_backward with db behind the stream, where Python has it.
template <class T>
void summed(const LrnProblem& lrn, const PoolProblem& pool, const T* x, const T* y, const T* dy, bool relu,
            T* dx, void* workspace, Stream stream, float* db) {
  lrn_maxpool_backward(lrn, pool, x, y, dy, relu, dx, db, workspace, stream);
}

const Operations kOperations = {
    operation("lrn_maxpool_forward", lrn_maxpool_forward<float>, lrn_maxpool_forward<bfloat16>, "lrn", "pool",
              array("x", &LrnProblem::count), array("y", &PoolProblem::y_count), stream()),
    operation("lrn_maxpool_backward", summed<float>, summed<bfloat16>, "lrn", "pool",
              array("x", &LrnProblem::count), array("y", &PoolProblem::y_count),
              array("dy", &PoolProblem::y_count), "relu", array("dx", &LrnProblem::count),
              workspace(lrn_maxpool_backward_workspace), stream(), with_sums(array("db", &PoolProblem::c))),
};

}  // namespace cconvnet::bindings
