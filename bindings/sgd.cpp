// The weights' update for Python.
#include "operation.h"

namespace cconvnet::bindings {
namespace {

// The fields of an Update as arguments of their own.
void update_weights(const SgdProblem& problem, const float* g, float* v, float* w, Stream stream,
                    bfloat16* w_bf16, const float* rates, const int32_t* halt) {
  Update update;
  update.problem = problem;
  update.rates = rates;
  update.halt = halt;
  update.v = v;
  update.w = w;
  update.w_bf16 = w_bf16;
  sgd_update(update, g, stream);
}

const Operations kOperations = {
    operation("sgd_update", update_weights, "problem", array("g", &SgdProblem::count),
              array("v", &SgdProblem::count), array("w", &SgdProblem::count), stream(),
              optional(array("w_bf16", &SgdProblem::count)), optional(array("rates", 2)),
              optional(array("halt", 1))),
};

}  // namespace
}  // namespace cconvnet::bindings
