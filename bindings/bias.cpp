// Biases and their gradients for Python.
#include "operation.h"

namespace cconvnet::bindings {

const Operations kOperations = {
    operation("bias_add", bias_add<float>, bias_add<bfloat16>, "problem", array("x", &BiasProblem::count),
              array("bias", &BiasProblem::k), "relu", array("y", &BiasProblem::count), stream()),
    operation("bias_grad", bias_grad<float>, bias_grad<bfloat16>, "problem", array("dy", &BiasProblem::count),
              array("db", &BiasProblem::k), workspace(bias_grad_workspace), stream()),
    operation("relu_bias_backward", relu_bias_backward<float>, relu_bias_backward<bfloat16>, "problem",
              array("y", &BiasProblem::y_count), array("dy", &BiasProblem::y_count), "scale",
              array("dx", &BiasProblem::count), array("db", &BiasProblem::k), workspace(bias_grad_workspace),
              stream()),
};

}  // namespace cconvnet::bindings
