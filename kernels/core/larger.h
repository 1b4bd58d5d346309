// The maximum that pooling and the elementwise maximum share.
#pragma once

#include "core/host_device.h"

namespace cconvnet {

// The larger of two numbers; NaN where either is NaN, as fmaxf is not.
CCONVNET_HOST_DEVICE float larger(float a, float b) {
  return (a > b) | (a != a) ? a : b;
}

}  // namespace cconvnet
