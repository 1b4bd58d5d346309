// Softmax and cross-entropy for Python.
#include "operation.h"

namespace cconvnet::bindings {

const Operations kOperations = {
    operation("softmax_forward", softmax_forward<float>, softmax_forward<bfloat16>, "problem",
              array("logits", &SoftmaxProblem::count), array("probabilities", &SoftmaxProblem::count),
              stream()),
    operation("softmax_cross_entropy_forward", softmax_cross_entropy_forward<float>,
              softmax_cross_entropy_forward<bfloat16>, "problem", array("logits", &SoftmaxProblem::count),
              array("labels", &SoftmaxProblem::n), array("probabilities", &SoftmaxProblem::count),
              array("loss", &SoftmaxProblem::n), array("rank", &SoftmaxProblem::n), stream()),
    operation("softmax_cross_entropy_backward", softmax_cross_entropy_backward<float>,
              softmax_cross_entropy_backward<bfloat16>, "problem",
              array("probabilities", &SoftmaxProblem::count), array("labels", &SoftmaxProblem::n), "scale",
              array("dlogits", &SoftmaxProblem::count), stream()),
    operation("softmax_cross_entropy", softmax_cross_entropy<float>, softmax_cross_entropy<bfloat16>,
              "problem", array("logits", &SoftmaxProblem::count), array("labels", &SoftmaxProblem::n),
              "scale", array("probabilities", &SoftmaxProblem::count), array("loss", &SoftmaxProblem::n),
              array("rank", &SoftmaxProblem::n), array("dlogits", &SoftmaxProblem::count), stream()),
    operation("watch_losses", watch_losses, count(), array("loss"), array("halt", 1), stream()),
};

}  // namespace cconvnet::bindings
