// Fully connected layers for Python.
#include "gemm_passes.h"

namespace cconvnet::bindings {

const Operations kOperations = {
    fprop<FcProblem, fc_fprop>("fc_fprop", fc_fprop_workspace, fc_fprop_impls),
    dgrad<FcProblem, fc_dgrad>("fc_dgrad", fc_dgrad_workspace, fc_dgrad_impls),
    wgrad<FcProblem, fc_wgrad>("fc_wgrad", fc_wgrad_workspace, fc_wgrad_impls),
};

}  // namespace cconvnet::bindings
