// Tensor maps: encoded by the driver on a GPU, by the emulator with the same rules.
#include "core/tensor_map.h"

#include "core/launch.cuh"

namespace cconvnet {
namespace {

void require(bool holds, const std::string& rule) {
  if (!holds) throw CudaError("a tensor map " + rule);
}

void check_array(const TensorArray& array) {
  require(array.rank >= 1 && array.rank <= 5, "has 1 to 5 dimensions");
  require(array.element_bytes == 2 || array.element_bytes == 4, "is of bfloat16s or floats");
  require(reinterpret_cast<uintptr_t>(array.data) % 16 == 0, "begins on a boundary of 16 bytes");
  for (int i = 0; i < array.rank; ++i) {
    require(array.size[i] >= 1 && array.size[i] <= uint64_t{1} << 32, "has sizes from 1 to 2^32");
    if (i == 0) continue;
    require(array.stride[i] % 16 == 0 && array.stride[i] < uint64_t{1} << 40,
            "has strides that are multiples of 16 bytes and below 2^40");
  }
}

void check_line(const TensorArray& array, int elements, Swizzle swizzle) {
  const int bytes = elements * array.element_bytes;
  require(bytes % 16 == 0, "has boxes whose lines are multiples of 16 bytes");
  // Shorter lines are allowed, but where their bytes lie is not documented.
  require(swizzle == Swizzle::none || bytes == line_bytes(swizzle),
          "has boxes whose lines are as long as those that are swizzled");
}

void check_windows(const TensorArray& array, const WindowRow& windows) {
  require(array.rank == 4, "of windows is of images, {C, W, H, N}");
  for (int corner : {windows.lower_w, windows.lower_h, windows.upper_w, windows.upper_h}) {
    require(corner >= -128 && corner <= 127, "of windows has corners from -128 to 127");
  }
  require(static_cast<int64_t>(array.size[1]) + windows.upper_w > windows.lower_w &&
              static_cast<int64_t>(array.size[2]) + windows.upper_h > windows.lower_h,
          "of windows has a rectangle with an area");
  require(windows.channels >= 1 && windows.channels <= 256, "of windows has boxes of 1 to 256 channels");
  require(windows.pixels >= 1 && windows.pixels <= 1024, "of windows has boxes of 1 to 1024 pixels");
  for (int step : {windows.step_w, windows.step_h}) {
    require(step >= 1 && step <= 8, "of windows has steps from 1 to 8");
  }
}

#ifdef __CUDACC__

// Of the driver, which the library does not link.
template <class Function>
Function driver_function(const char* name) {
  void* function = nullptr;
  cudaDriverEntryPointQueryResult found = cudaDriverEntryPointSymbolNotFound;
#if CUDART_VERSION >= 12050
  CCONVNET_CHECK(cudaGetDriverEntryPointByVersion(name, &function, 12000, cudaEnableDefault, &found));
#else
  CCONVNET_CHECK(cudaGetDriverEntryPoint(name, &function, cudaEnableDefault, &found));
#endif
  require(found == cudaDriverEntryPointSuccess, std::string("needs ") + name + ", which the driver lacks");
  return reinterpret_cast<Function>(function);
}

CUtensorMapDataType element_type(const TensorArray& array) {
  return array.element_bytes == 2 ? CU_TENSOR_MAP_DATA_TYPE_BFLOAT16 : CU_TENSOR_MAP_DATA_TYPE_FLOAT32;
}

void check_encoded(CUresult result) {
  require(result == CUDA_SUCCESS,
          "was refused by the driver, error " + std::to_string(static_cast<int>(result)));
}

#endif

}  // namespace

#ifdef __CUDACC__

TensorMap tiled_map(const TensorArray& array, std::initializer_list<int> box, Swizzle swizzle) {
  check_array(array);
  require(static_cast<int>(box.size()) == array.rank, "has boxes of its own rank");
  check_line(array, *box.begin(), swizzle);
  static const auto encode = driver_function<decltype(&cuTensorMapEncodeTiled)>("cuTensorMapEncodeTiled");
  cuuint32_t sides[5] = {};
  const cuuint32_t steps[5] = {1, 1, 1, 1, 1};
  int i = 0;
  for (int side : box) sides[i++] = static_cast<cuuint32_t>(side);
  const cuuint64_t sizes[5] = {array.size[0], array.size[1], array.size[2], array.size[3], array.size[4]};
  const cuuint64_t strides[4] = {array.stride[1], array.stride[2], array.stride[3], array.stride[4]};
  TensorMap map;
  check_encoded(encode(&map, element_type(array), static_cast<cuuint32_t>(array.rank),
                       const_cast<void*>(array.data), sizes, strides, sides, steps,
                       CU_TENSOR_MAP_INTERLEAVE_NONE, static_cast<CUtensorMapSwizzle>(swizzle),
                       CU_TENSOR_MAP_L2_PROMOTION_L2_256B, CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE));
  return map;
}

TensorMap window_map(const TensorArray& array, const WindowRow& windows, Swizzle swizzle) {
  check_array(array);
  check_windows(array, windows);
  check_line(array, windows.channels, swizzle);
  static const auto encode = driver_function<decltype(&cuTensorMapEncodeIm2col)>("cuTensorMapEncodeIm2col");
  const int lower[] = {windows.lower_w, windows.lower_h}, upper[] = {windows.upper_w, windows.upper_h};
  const cuuint32_t steps[] = {1, static_cast<cuuint32_t>(windows.step_w),
                              static_cast<cuuint32_t>(windows.step_h), 1};
  const cuuint64_t sizes[] = {array.size[0], array.size[1], array.size[2], array.size[3]};
  const cuuint64_t strides[] = {array.stride[1], array.stride[2], array.stride[3]};
  TensorMap map;
  check_encoded(encode(&map, element_type(array), 4, const_cast<void*>(array.data), sizes, strides, lower,
                       upper, static_cast<cuuint32_t>(windows.channels),
                       static_cast<cuuint32_t>(windows.pixels), steps, CU_TENSOR_MAP_INTERLEAVE_NONE,
                       static_cast<CUtensorMapSwizzle>(swizzle), CU_TENSOR_MAP_L2_PROMOTION_L2_256B,
                       CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE));
  return map;
}

#else

namespace {

TensorMap begin_map(const TensorArray& array, Swizzle swizzle) {
  check_array(array);
  TensorMap map = {};
  map.data = static_cast<const char*>(array.data);
  map.element_bytes = static_cast<uint8_t>(array.element_bytes);
  map.rank = static_cast<uint8_t>(array.rank);
  map.swizzle = static_cast<uint8_t>(swizzle);
  for (int i = 0; i < array.rank; ++i) {
    map.size[i] = static_cast<uint32_t>(array.size[i]);
    if (i > 0) map.stride[i - 1] = array.stride[i];
  }
  return map;
}

}  // namespace

TensorMap tiled_map(const TensorArray& array, std::initializer_list<int> box, Swizzle swizzle) {
  TensorMap map = begin_map(array, swizzle);
  require(static_cast<int>(box.size()) == array.rank, "has boxes of its own rank");
  check_line(array, *box.begin(), swizzle);
  int i = 0;
  for (int side : box) {
    require(side >= 1 && side <= 256, "has boxes with sides from 1 to 256");
    map.box[i++] = static_cast<uint16_t>(side);
  }
  return map;
}

TensorMap window_map(const TensorArray& array, const WindowRow& windows, Swizzle swizzle) {
  TensorMap map = begin_map(array, swizzle);
  check_windows(array, windows);
  check_line(array, windows.channels, swizzle);
  map.windows = 1;
  map.box[0] = static_cast<uint16_t>(windows.channels);
  map.box[1] = static_cast<uint16_t>(windows.pixels);
  map.lower[0] = static_cast<int8_t>(windows.lower_w), map.lower[1] = static_cast<int8_t>(windows.lower_h);
  map.upper[0] = static_cast<int8_t>(windows.upper_w), map.upper[1] = static_cast<int8_t>(windows.upper_h);
  map.step[0] = static_cast<int8_t>(windows.step_w), map.step[1] = static_cast<int8_t>(windows.step_h);
  return map;
}

#endif

}  // namespace cconvnet
