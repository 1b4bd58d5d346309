// The maximum of two numbers, for pooling and the elementwise maximum.
#pragma once

#include "core/host_device.h"

namespace cconvnet {

// The larger of two numbers, or NaN if either is NaN, unlike fmaxf.
CCONVNET_HOST_DEVICE float larger(float a, float b) {
  return (a > b) | (a != a) ? a : b;
}

}  // namespace cconvnet
