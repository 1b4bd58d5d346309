// cconvnet._pixels: resizes pictures on their way from a file into a batch.
//
// Pillow does this too, one value at a time, and takes as long for it as decoding the JPEG took. Here the
// same sums are formed by vectors, read from the decoder's pixels and written into the batch, so the copies
// into and out of Pillow's images fall away. The values are bitwise Pillow's: a triangle filter that widens
// with the reduction (its BILINEAR), weights rounded to 22 bits behind the point, first along the rows and
// then, from bytes again, along the columns. Source: Pillow's documentation, "Concepts: Filters", and its
// results, which tests/data/test_pixels.py compares.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <stdexcept>
#include <string>
#include <vector>

#include "cpu/clones.h"

namespace py = pybind11;
using namespace py::literals;

namespace {

constexpr int kBits = 22;  // 10 are left for a byte and a sum of weights that is rounded to above 1
constexpr uint32_t kHalf = 1u << (kBits - 1);
constexpr int kChannels = 3;

// The pixels that make one of the result's along one axis. All have the same number of them, so that the
// loops are regular; weights that are not needed are 0.
struct Taps {
  int count;                      // for each pixel of the result
  std::vector<int> first;         // the first pixel read
  std::vector<uint32_t> weights;  // `count` for each pixel of the result
};

// Of the part [begin, end) of `size` pixels, which becomes `out` pixels.
Taps make_taps(int size, float begin, float end, int out) {
  const double scale = static_cast<double>(end - begin) / out;
  const double width = std::max(scale, 1.0);
  struct Window {
    int first, count;
    std::vector<double> weights;
  };
  std::vector<Window> windows(out);
  Taps taps{1, std::vector<int>(out), {}};
  for (int i = 0; i < out; ++i) {
    const double centre = begin + (i + 0.5) * scale;
    const int first = std::max(static_cast<int>(centre - width + 0.5), 0);
    const int count = std::min(static_cast<int>(centre + width + 0.5), size) - first;
    std::vector<double> weights(count);
    double sum = 0;
    for (int t = 0; t < count; ++t) {
      const double distance = std::abs((t + first - centre + 0.5) * (1.0 / width));
      weights[t] = distance < 1.0 ? 1.0 - distance : 0.0;
      sum += weights[t];
    }
    if (sum != 0) {
      for (double& weight : weights) weight /= sum;
    }
    taps.count = std::max(taps.count, count);
    windows[i] = {first, count, std::move(weights)};
  }
  taps.weights.resize(static_cast<size_t>(out) * taps.count);
  for (int i = 0; i < out; ++i) {
    const Window& window = windows[i];
    taps.first[i] = std::min(window.first, size - taps.count);
    uint32_t* to = &taps.weights[static_cast<size_t>(i) * taps.count] + (window.first - taps.first[i]);
    for (int t = 0; t < window.count; ++t) {
      to[t] = static_cast<uint32_t>(0.5 + window.weights[t] * (1 << kBits));
    }
  }
  return taps;
}

// A pixel's three values, and one that is of no interest.
typedef uint32_t Four __attribute__((vector_size(16)));

#if __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__
constexpr Four kShifts = {0, 8, 16, 24};
#else
constexpr Four kShifts = {24, 16, 8, 0};
#endif

inline Four spread(const uint8_t* pixel) {
  uint32_t word;
  std::memcpy(&word, pixel, 4);
  return (Four{word, word, word, word} >> kShifts) & 255;
}

inline void gather(Four values, uint8_t* pixel) {
  typedef uint8_t Bytes __attribute__((vector_size(4)));
  const Bytes bytes = __builtin_convertvector(values, Bytes);
  std::memcpy(pixel, &bytes, 4);
}

// One row of pixels through `taps` to `y`. Both have a byte to spare behind them: a pixel is read and written
// as four bytes, and the fourth is the next pixel's.
template <int kCount>
inline __attribute__((always_inline)) void sum_row(const uint8_t* __restrict x, const int* __restrict first,
                                                   const uint32_t* __restrict weights, int count, int pixels,
                                                   uint8_t* __restrict y) {
  if (kCount) count = kCount;
  for (int i = 0; i < pixels; ++i, weights += count) {
    const uint8_t* from = x + first[i] * kChannels;
    Four sum = {kHalf, kHalf, kHalf, kHalf};
    for (int t = 0; t < count; ++t) sum += spread(from + t * kChannels) * weights[t];
    gather(sum >> kBits, y + i * kChannels);
  }
}

// `bytes` columns of rows of `stride` bytes, weighted, to one row.
template <int kCount>
inline __attribute__((always_inline)) void sum_columns(const uint8_t* __restrict x, int64_t stride,
                                                       const uint32_t* __restrict weights, int bytes,
                                                       uint8_t* __restrict y) {
  for (int i = 0; i < bytes; ++i) {
    uint32_t sum = kHalf;
    for (int t = 0; t < kCount; ++t) sum += x[t * stride + i] * weights[t];
    y[i] = static_cast<uint8_t>(sum >> kBits);
  }
}

// Up to a reduction by 2 a pixel is made of 3 or 4 in each direction, and JPEGs are never reduced more.
CCONVNET_CLONES void sum_along_row(const uint8_t* x, const Taps& taps, uint8_t* y) {
  const int* first = taps.first.data();
  const int pixels = static_cast<int>(taps.first.size());
  const uint32_t* weights = taps.weights.data();
  if (taps.count == 3) return sum_row<3>(x, first, weights, 3, pixels, y);
  if (taps.count == 4) return sum_row<4>(x, first, weights, 4, pixels, y);
  sum_row<0>(x, first, weights, taps.count, pixels, y);
}

CCONVNET_CLONES void sum_along_columns(const uint8_t* __restrict x, int64_t stride,
                                       const uint32_t* __restrict weights, int count, int bytes,
                                       uint32_t* __restrict sums, uint8_t* __restrict y) {
  if (count == 3) return sum_columns<3>(x, stride, weights, bytes, y);
  if (count == 4) return sum_columns<4>(x, stride, weights, bytes, y);
  std::fill_n(sums, bytes, kHalf);
  for (int t = 0; t < count; ++t) {
    for (int i = 0; i < bytes; ++i) sums[i] += x[t * stride + i] * weights[t];
  }
  for (int i = 0; i < bytes; ++i) y[i] = static_cast<uint8_t>(sums[i] >> kBits);
}

struct Box {
  float left, top, right, bottom;
};

void resize(const uint8_t* x, int height, int width, const Box& box, int out_height, int out_width,
            uint8_t* y) {
  const Taps across = make_taps(width, box.left, box.right, out_width);
  const Taps down = make_taps(height, box.top, box.bottom, out_height);
  const auto [least, most] = std::minmax_element(down.first.begin(), down.first.end());
  const int first = *least, rows = *most + down.count - first;
  const int64_t stride = static_cast<int64_t>(out_width) * kChannels;
  const int64_t x_stride = static_cast<int64_t>(width) * kChannels;
  std::vector<uint8_t> middle(rows * stride + 1);
  std::vector<uint32_t> sums(stride);
  std::vector<uint8_t> last(x_stride + 1);  // of the picture's very last row nothing may be read beyond
  for (int i = 0; i < rows; ++i) {
    const uint8_t* row = x + (first + i) * x_stride;
    if (first + i == height - 1) {
      std::memcpy(last.data(), row, x_stride);
      row = last.data();
    }
    sum_along_row(row, across, &middle[i * stride]);
  }
  for (int i = 0; i < out_height; ++i) {
    sum_along_columns(&middle[(down.first[i] - first) * stride], stride,
                      &down.weights[static_cast<size_t>(i) * down.count], down.count,
                      static_cast<int>(stride), sums.data(), y + i * stride);
  }
}

// The height and width of bytes[H,W,3].
std::pair<int, int> check(const char* name, const py::buffer_info& info) {
  const bool right = info.format == py::format_descriptor<uint8_t>::format() && info.ndim == 3 &&
                     info.shape[2] == kChannels && info.shape[0] >= 1 && info.shape[1] >= 1 &&
                     info.shape[0] <= 1 << 24 && info.shape[1] <= 1 << 24 && info.strides[2] == 1 &&
                     info.strides[1] == kChannels && info.strides[0] == info.shape[1] * kChannels;
  if (!right) throw std::invalid_argument(std::string(name) + " must be a contiguous uint8[H,W,3]");
  return {static_cast<int>(info.shape[0]), static_cast<int>(info.shape[1])};
}

void resize_into(const py::buffer& pixels, std::array<float, 4> box, const py::buffer& out) {
  const py::buffer_info from = pixels.request(), to = out.request(true);
  const auto [height, width] = check("pixels", from);
  const auto [out_height, out_width] = check("out", to);
  const auto [left, top, right, bottom] = box;
  if (!(0 <= left && left < right && right <= width && 0 <= top && top < bottom && bottom <= height)) {
    throw std::invalid_argument("box must lie within the picture");
  }
  py::gil_scoped_release release;
  resize(static_cast<const uint8_t*>(from.ptr), height, width, {left, top, right, bottom}, out_height,
         out_width, static_cast<uint8_t*>(to.ptr));
}

}  // namespace

PYBIND11_MODULE(_pixels, m) {
  m.doc() = "Pictures on their way into a batch.";
  m.def("resize_into", &resize_into, "pixels"_a, "box"_a, "out"_a,
        "Brings the part `box` (left, top, right, bottom) of pixels uint8[H,W,3] to the size of out "
        "uint8[H,W,3].");
}
