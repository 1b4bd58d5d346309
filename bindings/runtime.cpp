// Copies between devices for Python.
#include "operation.h"

namespace cconvnet::bindings {
namespace {

template <class T>
void copy_elements(int count, T* target, int target_device, const T* source, int source_device,
                   Stream stream) {
  copy(target, target_device, source, source_device, count * sizeof(T), stream);
}

const Operations kOperations = {
    operation("copy", copy_elements<float>, copy_elements<bfloat16>, count(), array("target"),
              "target_device", array("source"), "source_device", stream()),
};

}  // namespace
}  // namespace cconvnet::bindings
