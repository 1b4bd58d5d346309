// Sums of parts in a fixed tree for Python.
#include "operation.h"

namespace cconvnet::bindings {

const Operations kOperations = {
    operation("tree_sum", tree_sum<float>, tree_sum<bfloat16>, "problem",
              array("x", &TreeSumProblem::x_count), array("y", &TreeSumProblem::count), stream()),
};

}  // namespace cconvnet::bindings
