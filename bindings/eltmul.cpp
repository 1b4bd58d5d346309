// Elementwise product for Python.
#include "operation.h"

namespace cconvnet::bindings {

const Operations kOperations = {
    operation("eltmul", eltmul<float>, eltmul<bfloat16>, count(), array("a"), array("b"), array("y"),
              stream()),
};

}  // namespace cconvnet::bindings
