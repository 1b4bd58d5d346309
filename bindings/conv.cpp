// Convolution for Python.
#include "gemm_passes.h"

namespace cconvnet::bindings {

const Operations kOperations = {
    measured_fprop<ConvProblem, conv_fprop>("conv_fprop", conv_fprop_workspace, conv_fprop_impls),
    dgrad<ConvProblem, conv_dgrad>("conv_dgrad", conv_dgrad_workspace, conv_dgrad_impls),
    wgrad<ConvProblem, conv_wgrad>("conv_wgrad", conv_wgrad_workspace, conv_wgrad_impls),
};

}  // namespace cconvnet::bindings
