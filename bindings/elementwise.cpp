// Sums and conversions for Python.
#include "operation.h"

namespace cconvnet::bindings {
namespace {

// `alpha`, `beta` and `relu` come last, where they can be left out.
template <class T>
void scaled_sum(int count, const T* a, const T* b, T* y, Stream stream, float alpha, float beta, bool relu) {
  add(count, alpha, a, beta, b, relu, y, stream);
}

const Operations kOperations = {
    operation("add", scaled_sum<float>, scaled_sum<bfloat16>, count(), array("a"), array("b"), array("y"),
              stream(), with_default("alpha", 1), with_default("beta", 1), with_default("relu", 0)),
    operation("to_bf16", to_bf16, count(), array("x"), array("y"), stream()),
    operation("from_bf16", from_bf16, count(), array("x"), array("y"), stream()),
};

}  // namespace
}  // namespace cconvnet::bindings
