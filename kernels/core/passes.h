// The three passes of the layers that are matrix products: convolution, locally connected, fully connected.
// Each pass has a selection table, and its three functions of api.h only ask the table. They are defined
// here, once for all families and builds.
#pragma once

#include "core/alignment.h"
#include "core/input_epilogue.h"
#include "core/select.h"
#include "core/statistics.h"

namespace cconvnet {

// A pointer to void is to elements of the type that the problem's precision names; the row casts it.
struct FpropArguments {
  const void *x, *w;
  Epilogue epilogue;
  void* y;
  void* workspace;
  Statistics statistics = {};  // of convolutions
  void* sums = nullptr;        // their workspace, of fprop_sums_workspace bytes
  bool aligned() const { return cconvnet::aligned(x, w); }
};

struct DgradArguments {
  const void *dy, *w;
  InputEpilogue epilogue;
  void* dx;
  void* workspace;
  void* sums;  // the epilogue's workspace, of dgrad_sums_workspace bytes
  bool aligned() const { return cconvnet::aligned(dy, w); }
};

struct WgradArguments {
  const void *x, *dy;
  float* dw;
  const Update* update;  // or null
  void* workspace;
  bool aligned() const { return cconvnet::aligned(x, dy); }
};

// Multiples of 16 bytes.
size_t fprop_sums_workspace(const ConvProblem& problem);
size_t dgrad_sums_workspace(const ConvProblem& problem);
size_t dgrad_sums_workspace(const LocalProblem& problem);

using FpropTable = SelectionTable<ConvProblem, FpropArguments>;
using DgradTable = SelectionTable<ConvProblem, DgradArguments>;
using WgradTable = SelectionTable<ConvProblem, WgradArguments>;

using LocalFpropTable = SelectionTable<LocalProblem, FpropArguments>;
using LocalDgradTable = SelectionTable<LocalProblem, DgradArguments>;
using LocalWgradTable = SelectionTable<LocalProblem, WgradArguments>;

}  // namespace cconvnet

// CCONVNET_FPROP(family, Problem, table, served) defines family_fprop, family_fprop_impls and
// family_fprop_workspace; `served` is the problem that the table is asked about, an expression in `problem`.

#define CCONVNET_IMPLS(pass, Problem, table, served)              \
  std::vector<std::string> pass##_impls(const Problem& problem) { \
    return (table).impls(served);                                 \
  }

#define CCONVNET_WORKSPACE(pass, Problem, table, served)              \
  size_t pass##_workspace(const Problem& problem, const char* impl) { \
    return (table).workspace(served, impl);                           \
  }

// With the workspace of the sums before the row's.
#define CCONVNET_WORKSPACE_WITH_SUMS(pass, Problem, table, served, of_sums)      \
  size_t pass##_workspace(const Problem& problem, const char* impl, bool sums) { \
    return (sums ? of_sums(served) : 0) + (table).workspace(served, impl);       \
  }

#define CCONVNET_FPROP(family, Problem, table, served)                                                \
  CCONVNET_IMPLS(family##_fprop, Problem, table, served)                                              \
  CCONVNET_WORKSPACE(family##_fprop, Problem, table, served)                                          \
  void family##_fprop(const Problem& problem, const void* x, const void* w, const Epilogue& epilogue, \
                      void* y, void* workspace, Stream stream, const char* impl) {                    \
    (table).run(served, {x, w, epilogue, y, workspace}, stream, impl);                                \
  }

// The same of a family whose products have statistics.
#define CCONVNET_MEASURED_FPROP(family, Problem, table, served)                                           \
  CCONVNET_IMPLS(family##_fprop, Problem, table, served)                                                  \
  CCONVNET_WORKSPACE_WITH_SUMS(family##_fprop, Problem, table, served, fprop_sums_workspace)              \
  void family##_fprop(const Problem& problem, const void* x, const void* w, const Epilogue& epilogue,     \
                      void* y, void* workspace, Stream stream, const char* impl,                          \
                      const Statistics& statistics) {                                                     \
    detail::require(!(served).is_placed() || !(epilogue.dropout || statistics.mean),                      \
                    "a y that is placed cannot be dropped or measured");                                  \
    const size_t sums = statistics.mean ? fprop_sums_workspace(served) : 0;                               \
    detail::require(workspace || sums == 0, "workspace must not be null where mean is given");            \
    (table).run(served, {x, w, epilogue, y, static_cast<char*>(workspace) + sums, statistics, workspace}, \
                stream, impl);                                                                            \
  }

#define CCONVNET_DGRAD(family, Problem, table, served)                                                      \
  CCONVNET_IMPLS(family##_dgrad, Problem, table, served)                                                    \
  CCONVNET_WORKSPACE_WITH_SUMS(family##_dgrad, Problem, table, served, dgrad_sums_workspace)                \
  void family##_dgrad(const Problem& problem, const void* dy, const void* w, const InputEpilogue& epilogue, \
                      void* dx, void* workspace, Stream stream, const char* impl) {                         \
    detail::require(!(served).is_placed(), "dy cannot be placed");                                          \
    const size_t sums = epilogue.db ? dgrad_sums_workspace(served) : 0;                                     \
    detail::require(workspace || sums == 0, "workspace must not be null where db is given");                \
    (table).run(served, {dy, w, epilogue, dx, static_cast<char*>(workspace) + sums, workspace}, stream,     \
                impl);                                                                                      \
  }

#define CCONVNET_WGRAD(family, Problem, table, served)                                          \
  CCONVNET_IMPLS(family##_wgrad, Problem, table, served)                                        \
  CCONVNET_WORKSPACE(family##_wgrad, Problem, table, served)                                    \
  void family##_wgrad(const Problem& problem, const void* x, const void* dy, float* dw,         \
                      const Update* update, void* workspace, Stream stream, const char* impl) { \
    detail::require(!(served).is_placed(), "dy cannot be placed");                              \
    (table).run(served, {x, dy, dw, update, workspace}, stream, impl);                          \
  }
