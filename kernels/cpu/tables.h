// What the selection tables of conv.cpp, local.cpp and fc.cpp share. No row here wants more than a float's
// alignment.
#pragma once

#include "core/passes.h"

namespace cconvnet {

template <class Problem>
bool always(const Problem&) {
  return true;
}

template <class Problem>
size_t no_workspace(const Problem&) {
  return 0;
}

// What of a finish is not the product's own: the bias has been added to y, of `count` elements. oneDNN could
// apply the ReLU itself, but it makes 0 of a NaN, which would hide a broken layer.
template <class T>
void finish_after_bias(const Finish& finish, int count, T* y, Stream stream) {
  if (finish.relu) relu_forward(count, y, y, stream);
  if (finish.dropout) dropout(*finish.dropout, finish.step, y, y, stream);
}

inline void finish_after_bias(const Finish& finish, Precision precision, int count, void* y, Stream stream) {
  if (precision == Precision::bf16) {
    finish_after_bias(finish, count, static_cast<bfloat16*>(y), stream);
  } else {
    finish_after_bias(finish, count, static_cast<float*>(y), stream);
  }
}

// conv_wgrad_few_channels.cpp
WgradTable::Row few_channels_wgrad_row();

}  // namespace cconvnet
