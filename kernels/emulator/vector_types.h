// CUDA's small vectors, with CUDA's alignment. A float4 is 16 bytes on a 16-byte boundary, so
// UndefinedBehaviorSanitizer reports a misaligned one here, before it is a fault on a GPU.
#pragma once

#include <cstdint>

struct uint3 {
  unsigned x, y, z;
};

struct dim3 {
  unsigned x, y, z;
  constexpr dim3(unsigned x = 1, unsigned y = 1, unsigned z = 1) : x(x), y(y), z(z) {}
};

#define CCONVNET_EMULATOR_VECTORS(name, scalar)                              \
  struct alignas(2 * sizeof(scalar)) name##2 {                               \
    scalar x, y;                                                             \
  };                                                                         \
  struct alignas(4 * sizeof(scalar)) name##4 {                               \
    scalar x, y, z, w;                                                       \
  };                                                                         \
  constexpr name##2 make_##name##2(scalar x, scalar y) {                     \
    return {x, y};                                                           \
  }                                                                          \
  constexpr name##4 make_##name##4(scalar x, scalar y, scalar z, scalar w) { \
    return {x, y, z, w};                                                     \
  }

CCONVNET_EMULATOR_VECTORS(float, float)
CCONVNET_EMULATOR_VECTORS(int, int)
CCONVNET_EMULATOR_VECTORS(uint, unsigned)
CCONVNET_EMULATOR_VECTORS(char, signed char)
CCONVNET_EMULATOR_VECTORS(uchar, unsigned char)
CCONVNET_EMULATOR_VECTORS(short, short)
CCONVNET_EMULATOR_VECTORS(ushort, unsigned short)

#undef CCONVNET_EMULATOR_VECTORS
