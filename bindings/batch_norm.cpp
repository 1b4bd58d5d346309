// Batch normalisation for Python.
#include "operation.h"

namespace cconvnet::bindings {

const Operations kOperations = {
    operation("batch_norm_statistics", batch_norm_statistics<float>, batch_norm_statistics<bfloat16>,
              "problem", array("x", &BatchNormProblem::count), array("mean", &BatchNormProblem::k),
              array("variance", &BatchNormProblem::k), array("unbiased", &BatchNormProblem::k),
              workspace(batch_norm_statistics_workspace), stream()),
    operation("batch_norm_forward", batch_norm_forward<float>, batch_norm_forward<bfloat16>, "problem",
              array("x", &BatchNormProblem::count), array("mean", &BatchNormProblem::k),
              array("variance", &BatchNormProblem::k), array("gamma", &BatchNormProblem::k),
              array("beta", &BatchNormProblem::k), optional(array("shortcut", &BatchNormProblem::count)),
              "relu", array("y", &BatchNormProblem::count), stream()),
    operation("batch_norm_backward", batch_norm_backward<float>, batch_norm_backward<bfloat16>, "problem",
              array("x", &BatchNormProblem::count), optional(array("y", &BatchNormProblem::count)),
              array("dy", &BatchNormProblem::count), array("mean", &BatchNormProblem::k),
              array("variance", &BatchNormProblem::k), array("gamma", &BatchNormProblem::k),
              optional(array("dx", &BatchNormProblem::count)), array("dgamma", &BatchNormProblem::k),
              array("dbeta", &BatchNormProblem::k), workspace(batch_norm_backward_workspace), stream(),
              optional(array("dshortcut", &BatchNormProblem::count))),
};

}  // namespace cconvnet::bindings
