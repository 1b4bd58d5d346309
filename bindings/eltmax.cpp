// Elementwise maximum for Python.
#include "operation.h"

namespace cconvnet::bindings {

const Operations kOperations = {
    operation("eltmax_forward", eltmax_forward<float>, eltmax_forward<bfloat16>, count(), array("a"),
              array("b"), array("y"), stream()),
    operation("eltmax_backward", eltmax_backward<float>, eltmax_backward<bfloat16>, count(), array("x"),
              array("y"), array("dy"), array("dx"), stream()),
};

}  // namespace cconvnet::bindings
