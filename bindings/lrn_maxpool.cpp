// Response normalisation fused with max pooling for Python.
#include "operation.h"

namespace cconvnet::bindings {

const Operations kOperations = {
    operation("lrn_maxpool_forward", lrn_maxpool_forward<float>, lrn_maxpool_forward<bfloat16>, "lrn", "pool",
              array("x", &LrnProblem::count), array("y", &PoolProblem::y_count), stream()),
    operation("lrn_maxpool_backward", lrn_maxpool_backward<float>, lrn_maxpool_backward<bfloat16>, "lrn",
              "pool", array("x", &LrnProblem::count), array("y", &PoolProblem::y_count),
              array("dy", &PoolProblem::y_count), "relu", array("dx", &LrnProblem::count),
              workspace(lrn_maxpool_backward_workspace), stream()),
};

}  // namespace cconvnet::bindings
