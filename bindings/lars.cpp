// The rate of a tensor by LARS for Python.
#include "operation.h"

namespace cconvnet::bindings {

const Operations kOperations = {
    operation("lars_rate", lars_rate, "problem", array("w", &LarsProblem::count),
              array("g", &LarsProblem::count), array("rates", 2), array("rates_out", 2),
              workspace(lars_rate_workspace), stream()),
};

}  // namespace cconvnet::bindings
