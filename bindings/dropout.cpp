// Dropout for Python.
#include "operation.h"

namespace cconvnet::bindings {
namespace {

// `step` comes last, where it can be left out.
template <class T>
void dropout_at(const DropoutProblem& problem, const T* x, T* y, Stream stream, const int64_t* step) {
  dropout(problem, step, x, y, stream);
}

const Operations kOperations = {
    operation("dropout", dropout_at<float>, dropout_at<bfloat16>, "problem",
              array("x", &DropoutProblem::count), array("y", &DropoutProblem::count), stream(),
              optional(array("step", 1))),
};

}  // namespace
}  // namespace cconvnet::bindings
