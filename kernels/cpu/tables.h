// What the selection tables of conv.cpp, local.cpp and fc.cpp share. No row here wants more than a float's
// alignment.
#pragma once

#include "passes.h"

namespace cconvnet {

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
