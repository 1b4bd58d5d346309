// Limits to the norms of filters for Python.
#include "operation.h"

namespace cconvnet::bindings {

const Operations kOperations = {
    operation("limit_norm", limit_norm, "problem", array("w", &NormLimitProblem::count), stream()),
};

}  // namespace cconvnet::bindings
