// The squared distance from targets for Python.
#include "operation.h"

namespace cconvnet::bindings {

const Operations kOperations = {
    operation("l2_cost_forward", l2_cost_forward<float>, l2_cost_forward<bfloat16>, "problem",
              array("x", &L2CostProblem::count), array("target", &L2CostProblem::count),
              array("loss", &L2CostProblem::n), stream()),
    operation("l2_cost_backward", l2_cost_backward<float>, l2_cost_backward<bfloat16>, "problem",
              array("x", &L2CostProblem::count), array("target", &L2CostProblem::count), "scale",
              array("dx", &L2CostProblem::count), stream()),
};

}  // namespace cconvnet::bindings
