// Locally connected layers for Python.
#include "gemm_passes.h"

namespace cconvnet::bindings {

const Operations kOperations = {
    fprop<LocalProblem, local_fprop>("local_fprop", local_fprop_workspace, local_fprop_impls),
    dgrad<LocalProblem, local_dgrad>("local_dgrad", local_dgrad_workspace, local_dgrad_impls),
    wgrad<LocalProblem, local_wgrad>("local_wgrad", local_wgrad_workspace, local_wgrad_impls),
};

}  // namespace cconvnet::bindings
