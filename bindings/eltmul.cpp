#include "operation.h"

namespace cconvnet::bindings {
namespace {

const Operations kOperations = {
    operation("eltmul", eltmul<float>, eltmul<bfloat16>, count(), array("a"), array("b"), array("y"),
              stream()),
};

}  // namespace
}  // namespace cconvnet::bindings
