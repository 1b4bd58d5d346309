#include "operation.h"

namespace cconvnet::bindings {
namespace {

const Operations kOperations = {
    operation("limit_norm", limit_norm, "problem", array("w", &NormLimitProblem::count), stream()),
};

}  // namespace
}  // namespace cconvnet::bindings
