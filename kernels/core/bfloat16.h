// bfloat16, the upper half of a float: a storage format. Kernels convert what they read to floats and round
// what they write.
#pragma once

#include <cstdint>
#include <cstring>

#include "core/host_device.h"

#ifdef __CUDACC__
#include <cuda_bf16.h>
#endif

namespace cconvnet {

struct bfloat16 {
  uint16_t bits;
};

CCONVNET_HOST_DEVICE float to_float(float value) {
  return value;
}

CCONVNET_HOST_DEVICE float to_float(bfloat16 value) {
  const uint32_t bits = uint32_t{value.bits} << 16;
#ifdef __CUDA_ARCH__
  return __uint_as_float(bits);
#else
  float result;
  std::memcpy(&result, &bits, sizeof(result));
  return result;
#endif
}

// To the nearest, ties to even, as PTX's cvt.rn.bf16.f32: infinite from 3.4e38 on, every NaN becomes 0x7fff.
CCONVNET_HOST_DEVICE bfloat16 to_bfloat16(float value) {
#ifdef __CUDA_ARCH__
  return {__bfloat16_as_ushort(__float2bfloat16_rn(value))};  // one instruction from sm_80 on
#else
  uint32_t bits;
  std::memcpy(&bits, &value, sizeof(bits));
  const uint32_t rounded = (bits + 0x7fff + (bits >> 16 & 1)) >> 16;
  return {static_cast<uint16_t>((bits & 0x7fffffff) > 0x7f800000 ? 0x7fff : rounded)};
#endif
}

// The name of T in names of kernels.
template <class T>
constexpr const char* kElementName = "fp32";
template <>
inline constexpr const char* kElementName<bfloat16> = "bf16";

// from_float<T>(value) is `value` as it is kept in an array of T.
template <class T>
CCONVNET_HOST_DEVICE T from_float(float value);
template <>
CCONVNET_HOST_DEVICE float from_float<float>(float value) {
  return value;
}
template <>
CCONVNET_HOST_DEVICE bfloat16 from_float<bfloat16>(float value) {
  return to_bfloat16(value);
}

// Two bfloat16s in a word, the first in its low half. On a GPU one instruction rounds both; a single number
// would need a slow one.
CCONVNET_HOST_DEVICE uint32_t to_bfloat16_pair(float first, float second) {
#ifdef __CUDA_ARCH__
  const __nv_bfloat162 pair = __floats2bfloat162_rn(first, second);
  uint32_t word;
  std::memcpy(&word, &pair, sizeof(word));
  return word;
#else
  return to_bfloat16(first).bits | uint32_t{to_bfloat16(second).bits} << 16;
#endif
}

CCONVNET_HOST_DEVICE float low_float(uint32_t pair) {
  return to_float(bfloat16{static_cast<uint16_t>(pair)});
}

CCONVNET_HOST_DEVICE float high_float(uint32_t pair) {
  return to_float(bfloat16{static_cast<uint16_t>(pair >> 16)});
}

// Two numbers after a round trip through an array of bfloat16s.
CCONVNET_HOST_DEVICE void round_to_bfloat16(float& first, float& second) {
  const uint32_t pair = to_bfloat16_pair(first, second);
  first = low_float(pair);
  second = high_float(pair);
}

// The value after a round trip through an array of T. A fused kernel rounds wherever the separate ones would
// write and read, and so gives the same bits.
template <class T>
CCONVNET_HOST_DEVICE float rounded_to(float value) {
  return to_float(from_float<T>(value));
}

}  // namespace cconvnet
