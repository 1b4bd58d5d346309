// Contrast normalisation for Python.
#include "operation.h"

namespace cconvnet::bindings {

const Operations kOperations = {
    operation("contrast_norm_forward", contrast_norm_forward<float>, contrast_norm_forward<bfloat16>,
              "problem", array("x", &ContrastNormProblem::count), array("y", &ContrastNormProblem::count),
              workspace(contrast_norm_forward_workspace), stream()),
    operation("contrast_norm_backward", contrast_norm_backward<float>, contrast_norm_backward<bfloat16>,
              "problem", array("x", &ContrastNormProblem::count), array("dy", &ContrastNormProblem::count),
              array("dx", &ContrastNormProblem::count), workspace(contrast_norm_backward_workspace),
              stream()),
};

}  // namespace cconvnet::bindings
