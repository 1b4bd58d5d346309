// Helpers of the selection tables in conv.cpp, local.cpp and fc.cpp. No row here needs more than a float's
// alignment.
#pragma once

#include "core/passes.h"

namespace cconvnet {

// Applies what follows the bias, which the product has added to y, of `count` elements. oneDNN could apply
// the ReLU itself, but turns a NaN into 0, which would hide a broken layer.
template <class T>
void apply_after_bias(const Epilogue& epilogue, int count, T* y, Stream stream) {
  if (epilogue.relu) relu_forward(count, y, y, stream);
  if (epilogue.dropout) dropout(*epilogue.dropout, epilogue.step, y, y, stream);
}

inline void apply_after_bias(const Epilogue& epilogue, Precision precision, int count, void* y,
                             Stream stream) {
  if (precision == Precision::bf16) {
    apply_after_bias(epilogue, count, static_cast<bfloat16*>(y), stream);
  } else {
    apply_after_bias(epilogue, count, static_cast<float*>(y), stream);
  }
}

// conv_depthwise.cpp
DgradTable::Row depthwise_dgrad_row();
WgradTable::Row depthwise_wgrad_row();

// conv_wgrad_few_channels.cpp
WgradTable::Row few_channels_wgrad_row();

// conv_winograd.cpp
bool strict();  // whether CCONVNET_STRICT=1 asks for plain sums of products
FpropTable::Row winograd_fprop_row();
DgradTable::Row winograd_dgrad_row();
WgradTable::Row winograd_wgrad_row();

}  // namespace cconvnet
