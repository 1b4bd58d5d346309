// Crops of images, and filters for images cut into blocks for Python.
#include "operation.h"

namespace cconvnet::bindings {
namespace {

int64_t mean_count(const InputProblem& problem) {
  return int64_t{problem.h} * problem.w * problem.c;
}

int64_t shift_count(const InputProblem& problem) {
  return int64_t{problem.n} * problem.c;
}

const Operations kOperations = {
    operation("input_transform", input_transform<float>, input_transform<bfloat16>, "problem",
              array("images", &InputProblem::images_count), array("top", &InputProblem::n),
              array("left", &InputProblem::n), array("mirror", &InputProblem::n),
              optional(array("mean", mean_count)), optional(array("shift", shift_count)), "scale",
              optional(array("factors", &InputProblem::c)), array("y", &InputProblem::y_count), stream()),
    operation("filters_to_blocks", filters_to_blocks<float>, filters_to_blocks<bfloat16>, "problem",
              array("w", &FilterBlocksProblem::w_count), array("blocks", &FilterBlocksProblem::blocks_count),
              stream()),
    operation("filters_from_blocks", filters_from_blocks, "problem",
              array("dblocks", &FilterBlocksProblem::blocks_count),
              array("dw", &FilterBlocksProblem::w_count), stream()),
};

}  // namespace
}  // namespace cconvnet::bindings
