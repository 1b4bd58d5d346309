// The three passes of the layers that are matrix products: convolution, locally connected, fully connected.
// Each pass has a selection table, and its three functions of api.h only ask the table. They are defined
// here, once for all families and builds.
#pragma once

#include "core/alignment.h"
#include "core/select.h"

namespace cconvnet {

// A pointer to void is to elements of the type that the problem's precision names; the row casts it.
struct FpropArguments {
  const void *x, *w;
  Epilogue epilogue;
  void* y;
  void* workspace;
  bool aligned() const { return cconvnet::aligned(x, w); }
};

struct DgradArguments {
  const void *dy, *w;
  void* dx;
  void* workspace;
  bool aligned() const { return cconvnet::aligned(dy, w); }
};

struct WgradArguments {
  const void *x, *dy;
  float* dw;
  const Update* update;  // or null
  void* workspace;
  bool aligned() const { return cconvnet::aligned(x, dy); }
};

using FpropTable = SelectionTable<ConvProblem, FpropArguments>;
using DgradTable = SelectionTable<ConvProblem, DgradArguments>;
using WgradTable = SelectionTable<ConvProblem, WgradArguments>;

using LocalFpropTable = SelectionTable<LocalProblem, FpropArguments>;
using LocalDgradTable = SelectionTable<LocalProblem, DgradArguments>;
using LocalWgradTable = SelectionTable<LocalProblem, WgradArguments>;

}  // namespace cconvnet

// CCONVNET_FPROP(family, Problem, table, served) defines family_fprop, family_fprop_impls and
// family_fprop_workspace; `served` is the problem that the table is asked about, an expression in `problem`.

#define CCONVNET_IMPLS_AND_WORKSPACE(pass, Problem, table, served)    \
  std::vector<std::string> pass##_impls(const Problem& problem) {     \
    return (table).impls(served);                                     \
  }                                                                   \
  size_t pass##_workspace(const Problem& problem, const char* impl) { \
    return (table).workspace(served, impl);                           \
  }

#define CCONVNET_FPROP(family, Problem, table, served)                                                \
  CCONVNET_IMPLS_AND_WORKSPACE(family##_fprop, Problem, table, served)                                \
  void family##_fprop(const Problem& problem, const void* x, const void* w, const Epilogue& epilogue, \
                      void* y, void* workspace, Stream stream, const char* impl) {                    \
    (table).run(served, {x, w, epilogue, y, workspace}, stream, impl);                                \
  }

#define CCONVNET_DGRAD(family, Problem, table, served)                                                  \
  CCONVNET_IMPLS_AND_WORKSPACE(family##_dgrad, Problem, table, served)                                  \
  void family##_dgrad(const Problem& problem, const void* dy, const void* w, void* dx, void* workspace, \
                      Stream stream, const char* impl) {                                                \
    (table).run(served, {dy, w, dx, workspace}, stream, impl);                                          \
  }

#define CCONVNET_WGRAD(family, Problem, table, served)                                          \
  CCONVNET_IMPLS_AND_WORKSPACE(family##_wgrad, Problem, table, served)                          \
  void family##_wgrad(const Problem& problem, const void* x, const void* dy, float* dw,         \
                      const Update* update, void* workspace, Stream stream, const char* impl) { \
    (table).run(served, {x, dy, dw, update, workspace}, stream, impl);                          \
  }
