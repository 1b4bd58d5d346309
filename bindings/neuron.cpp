// Neurons: elementwise functions of one input for Python.
#include "operation.h"

namespace cconvnet::bindings {

const Operations kOperations = {
    operation("relu_forward", relu_forward<float>, relu_forward<bfloat16>, count(), array("x"), array("y"),
              stream()),
    operation("relu_backward", relu_backward<float>, relu_backward<bfloat16>, count(), array("y"),
              array("dy"), array("dx"), stream()),
    operation("neuron_forward", neuron_forward<float>, neuron_forward<bfloat16>, "problem",
              array("x", &NeuronProblem::count), array("y", &NeuronProblem::count), stream()),
    operation("neuron_backward", neuron_backward<float>, neuron_backward<bfloat16>, "problem",
              array("x", &NeuronProblem::count), array("y", &NeuronProblem::count),
              array("dy", &NeuronProblem::count), array("dx", &NeuronProblem::count), stream()),
};

}  // namespace cconvnet::bindings
