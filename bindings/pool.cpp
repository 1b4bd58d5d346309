// Max and average pooling for Python.
#include "operation.h"

namespace cconvnet::bindings {

const Operations kOperations = {
    operation("maxpool_forward", maxpool_forward<float>, maxpool_forward<bfloat16>, "problem",
              array("x", &PoolProblem::x_count), array("y", &PoolProblem::y_count), stream()),
    operation("maxpool_backward", maxpool_backward<float>, maxpool_backward<bfloat16>, "problem",
              array("x", &PoolProblem::x_count), array("y", &PoolProblem::y_count),
              array("dy", &PoolProblem::y_count), array("dx", &PoolProblem::x_count), stream()),
    operation("avgpool_forward", avgpool_forward<float>, avgpool_forward<bfloat16>, "problem",
              array("x", &PoolProblem::x_count), array("y", &PoolProblem::y_count), stream()),
    operation("avgpool_backward", avgpool_backward<float>, avgpool_backward<bfloat16>, "problem",
              array("dy", &PoolProblem::y_count), array("dx", &PoolProblem::x_count), stream()),
};

}  // namespace cconvnet::bindings
