// The three passes of a convolution, of a locally connected and of a fully connected layer for Python. They
// have the same form, except that the problems differ.
#pragma once

#include "operation.h"

namespace cconvnet::bindings {

template <class Problem>
using Impls = std::vector<std::string> (*)(const Problem&);
template <class Problem>
using Workspace = size_t (*)(const Problem&, const char* impl);
template <class Problem>
using WorkspaceWithSums = size_t (*)(const Problem&, const char* impl, bool sums);

template <class Problem>
Epilogue epilogue(const Problem& problem, const float* bias, bool relu, const DropoutProblem* dropout,
                  const int64_t* step) {
  cconvnet::detail::require(!dropout || dropout->count == problem.y_count(),
                            "dropout must be of y's number of elements");
  Epilogue epilogue;
  epilogue.bias = bias;
  epilogue.relu = relu;
  epilogue.dropout = dropout;
  epilogue.step = dropout ? step : nullptr;
  return epilogue;
}

// The pass `function` with what finishes y as arguments of their own.
template <class Problem, auto function>
void finished(const Problem& problem, const void* x, const void* w, const float* bias, bool relu, void* y,
              void* workspace, Stream stream, const char* impl, const DropoutProblem* dropout,
              const int64_t* step) {
  function(problem, x, w, epilogue(problem, bias, relu, dropout, step), y, workspace, stream, impl);
}

// A forward pass by its function and the arguments that it has besides those of every one.
template <class Problem, class Function, class Size, class... More>
Operation forward(const char* name, Function function, Size size, Impls<Problem> impls, More... more) {
  return operation(name, function, "problem", array<Problem>("x", &Problem::x_count),
                   array<Problem>("w", &Problem::w_count),
                   optional(array<Problem>("bias", &Problem::bias_count)), "relu",
                   array<Problem>("y", &Problem::y_count), workspace(size), stream(), impl(), "dropout",
                   optional(array("step", 1)), more...)
      .chosen_from(impls);
}

template <class Problem, auto function>
Operation fprop(const char* name, Workspace<Problem> size, Impls<Problem> impls) {
  return forward(name, finished<Problem, function>, size, impls);
}

// The same with the statistics of y.
template <class Problem, auto function>
void measured(const Problem& problem, const void* x, const void* w, const float* bias, bool relu, void* y,
              void* workspace, Stream stream, const char* impl, const DropoutProblem* dropout,
              const int64_t* step, float* mean, float* variance, float* unbiased, int counted) {
  cconvnet::detail::require(!mean == !variance && !mean == !unbiased,
                            "mean, variance and unbiased must be given together");
  function(problem, x, w, epilogue(problem, bias, relu, dropout, step), y, workspace, stream, impl,
           {mean, variance, unbiased, counted});
}

template <class Problem, auto function>
Operation measured_fprop(const char* name, WorkspaceWithSums<Problem> size, Impls<Problem> impls) {
  const auto statistic = [](const char* name) { return array<Problem>(name, &Problem::k); };
  return forward(name, measured<Problem, function>, size, impls, with_sums(statistic("mean")),
                 optional(statistic("variance")), optional(statistic("unbiased")),
                 with_default("counted", 0));
}

// dgrad with the epilogue as arguments of their own.
template <class Problem, auto function>
void masked_and_summed(const Problem& problem, const void* dy, const void* w, void* dx, void* workspace,
                       Stream stream, const char* impl, const void* masked_by, float scale, float* db) {
  function(problem, dy, w, input_epilogue(masked_by, scale, db), dx, workspace, stream, impl);
}

template <class Problem, auto function>
Operation dgrad(const char* name, WorkspaceWithSums<Problem> size, Impls<Problem> impls) {
  return operation(name, masked_and_summed<Problem, function>, "problem",
                   array<Problem>("dy", &Problem::y_count), array<Problem>("w", &Problem::w_count),
                   array<Problem>("dx", &Problem::x_count), workspace(size), stream(), impl(),
                   optional(array<Problem>("masked_by", &Problem::x_count)), with_default("scale", 1),
                   with_sums(array<Problem>("db", &Problem::c)))
      .chosen_from(impls);
}

// wgrad with the update behind `impl`, where Python has it.
template <class Problem, auto function>
void updated(const Problem& problem, const void* x, const void* dy, float* dw, void* workspace, Stream stream,
             const char* impl, const Update* update) {
  function(problem, x, dy, dw, update, workspace, stream, impl);
}

template <class Problem, auto function>
Operation wgrad(const char* name, Workspace<Problem> size, Impls<Problem> impls) {
  return operation(name, updated<Problem, function>, "problem", array<Problem>("x", &Problem::x_count),
                   array<Problem>("dy", &Problem::y_count), array<Problem>("dw", &Problem::w_count),
                   workspace(size), stream(), impl(), update(array<Problem>("dw", &Problem::w_count)))
      .chosen_from(impls);
}

}  // namespace cconvnet::bindings
