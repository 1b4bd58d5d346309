// Tensor maps: descriptions of arrays in global memory from which the copy engine of compute capability 9.0 and
// newer ("TMA") copies boxes to and from shared memory.
//
// Dimensions are listed from the innermost on, so an image is {C, W, H, N}. A box is a number of elements along each
// dimension; outside of the array its elements are 0, and are not stored. An image's box may also be a row of windows
// ("im2col"): the base pixels of windows lie in a rectangle, `lower` from the first pixel and `upper` from the last, a
// step apart; the box begins at any of them and goes on along w, then h, then n; from each base pixel a copy reads the
// pixel at an offset that it names, a filter's tap.
//
// The rules are those of cuda.h 13.0, cuTensorMapEncodeTiled and cuTensorMapEncodeIm2col.
#pragma once

#include <cstdint>
#include <initializer_list>
#include <string>

#include "api.h"
#include "core/host_device.h"

#ifdef __CUDACC__
#include <cuda.h>
#include <cuda_runtime.h>
#endif

namespace cconvnet {

// How chunks of 16 bytes are exchanged in lines of so many bytes of shared memory: chunk c of line l is at
// c XOR (l % chunks), where lines are of 128 bytes; shorter ones are counted by 128 bytes too. So neither the rows nor
// the columns of a matrix are on the same banks.
enum class Swizzle { none = 0, bytes_32 = 1, bytes_64 = 2, bytes_128 = 3 };

constexpr int line_bytes(Swizzle swizzle) {
  return 16 << static_cast<int>(swizzle);
}

// The pattern repeats after so many bytes, and so does what is swizzled begin.
constexpr int pattern_bytes(Swizzle swizzle) {
  return swizzle == Swizzle::none ? 128 : 8 * line_bytes(swizzle);
}

// The place of a byte, given by its distance from the beginning of a pattern.
CCONVNET_HOST_DEVICE constexpr uint32_t swizzled(Swizzle swizzle, uint32_t byte) {
  const uint32_t bits = (1u << static_cast<int>(swizzle)) - 1;
  return byte ^ ((byte >> 7 & bits) << 4);
}

struct TensorArray {
  const void* data;
  int element_bytes;  // 2: bfloat16; 4: float
  int rank;
  uint64_t size[5];
  uint64_t stride[5];  // in bytes, of each dimension; that of the first is element_bytes
};

// A matrix of rows of `columns` elements.
inline TensorArray matrix(const void* data, int element_bytes, int rows, int columns) {
  return {data,
          element_bytes,
          2,
          {static_cast<uint64_t>(columns), static_cast<uint64_t>(rows)},
          {static_cast<uint64_t>(element_bytes), static_cast<uint64_t>(columns) * element_bytes}};
}

// The rows of windows of an image, {C, W, H, N}.
struct WindowRow {
  int lower_w, lower_h, upper_w, upper_h;
  int step_w, step_h;
  int channels, pixels;  // of a box
};

#ifdef __CUDACC__

using TensorMap = CUtensorMap;

#else

// As the emulator's copy engine reads it.
struct alignas(64) TensorMap {
  const char* data;
  uint64_t stride[4];  // of the dimensions from the second on
  uint32_t size[5];
  uint16_t box[5];  // windows: {channels, pixels}
  int8_t lower[2], upper[2], step[2];
  uint8_t element_bytes, rank, windows, swizzle;
};
static_assert(sizeof(TensorMap) == 128, "as large as CUDA's");

#endif

// Throw CudaError where a rule is broken.
TensorMap tiled_map(const TensorArray& array, std::initializer_list<int> box, Swizzle swizzle);
TensorMap window_map(const TensorArray& array, const WindowRow& windows, Swizzle swizzle);

}  // namespace cconvnet
