// The selection tables' types, shared by conv.cpp, local.cpp and fc.cpp: a fully connected layer is a 1x1
// convolution of 1x1 images, as in the CUDA build.
#pragma once

#include "select.h"

namespace cconvnet {

struct FpropArguments {
  const float *x, *w, *bias;
  bool relu;
  float* y;
  void* workspace;
  bool aligned() const { return true; }  // no row here wants more than a float's alignment
};

struct DgradArguments {
  const float *dy, *w;
  float* dx;
  void* workspace;
  bool aligned() const { return true; }
};

struct WgradArguments {
  const float *x, *dy;
  float* dw;
  void* workspace;
  bool aligned() const { return true; }
};

using FpropTable = SelectionTable<ConvProblem, FpropArguments>;
using DgradTable = SelectionTable<ConvProblem, DgradArguments>;
using WgradTable = SelectionTable<ConvProblem, WgradArguments>;

template <class Problem>
bool always(const Problem&) {
  return true;
}

template <class Problem>
size_t no_workspace(const Problem&) {
  return 0;
}

// conv_wgrad_few_channels.cpp
WgradTable::Row few_channels_wgrad_row();

}  // namespace cconvnet
