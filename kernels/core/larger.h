// The maximum of two numbers and its place, for pooling, unpooling and the elementwise maximum.
#pragma once

#include "core/host_device.h"

namespace cconvnet {

// The larger of two numbers, or NaN if either is NaN, unlike fmaxf.
CCONVNET_HOST_DEVICE float larger(float a, float b) {
  return (a > b) | (a != a) ? a : b;
}

// True if `later` replaces `earlier` as the first maximum of a row of numbers: it is larger, or the first NaN.
CCONVNET_HOST_DEVICE bool exceeds(float later, float earlier) {
  return (later > earlier) | ((later != later) & (earlier == earlier));
}

}  // namespace cconvnet
