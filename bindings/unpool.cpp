// Max unpooling for Python.
#include "operation.h"

namespace cconvnet::bindings {

const Operations kOperations = {
    operation("maxunpool_forward", maxunpool_forward<float>, maxunpool_forward<bfloat16>, "problem",
              array("x", &PoolProblem::y_count), array("u", &PoolProblem::x_count),
              array("y", &PoolProblem::x_count), stream()),
    operation("maxunpool_backward", maxunpool_backward<float>, maxunpool_backward<bfloat16>, "problem",
              array("u", &PoolProblem::x_count), array("dy", &PoolProblem::x_count),
              array("dx", &PoolProblem::y_count), stream()),
};

}  // namespace cconvnet::bindings
