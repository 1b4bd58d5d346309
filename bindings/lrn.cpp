// Local response normalisation for Python.
#include "operation.h"

namespace cconvnet::bindings {

const Operations kOperations = {
    operation("lrn_forward", lrn_forward<float>, lrn_forward<bfloat16>, "problem",
              array("x", &LrnProblem::count), array("y", &LrnProblem::count), stream()),
    operation("lrn_backward", lrn_backward<float>, lrn_backward<bfloat16>, "problem",
              array("x", &LrnProblem::count), array("dy", &LrnProblem::count),
              array("dx", &LrnProblem::count), workspace(lrn_backward_workspace), stream()),
};

}  // namespace cconvnet::bindings
