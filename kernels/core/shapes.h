// Checks of a problem's numbers, and the arithmetic of windows along one axis. problem.h uses both.
#pragma once

#include <algorithm>
#include <cstdint>
#include <initializer_list>
#include <stdexcept>
#include <string>

namespace cconvnet {

// The rounding of an output size that does not divide evenly. floor is the rule of PyTorch and cuDNN. ceil is
// that of cuda-convnet and Caffe, where the last window may extend beyond the right and bottom edge.
enum class Rounding { floor, ceil };

namespace detail {

inline void require(bool ok, const std::string& message) {
  if (!ok) throw std::invalid_argument(message);
}

inline void at_least(const char* name, int value, int bound) {
  require(value >= bound, std::string(name) + " must be at least " + std::to_string(bound) + ", not " +
                              std::to_string(value));
}

// `factors` are at least 0, and their product fits in 128 bits: there are at most four, or five of which two
// are below 2^30 (the blocks of filters).
inline void fits(const char* tensor, std::initializer_list<int> factors) {
  __int128 count = 1;
  for (int factor : factors) count *= factor;
  require(count <= INT32_MAX, std::string(tensor) + " would have more than 2^31 - 1 elements");
}

inline int ceil_div(int a, int b) {
  return (a + b - 1) / b;
}

// The pixels added to an axis of an image at its two ends: above and below, or left and right.
struct Padding {
  int before, after;
  Padding(int both) : before(both), after(both) {}
  Padding(int before, int after) : before(before), after(after) {}
};

// The number of pixels that a window of `taps` spans when its taps are `dilation` apart.
inline int64_t extent(int taps, int dilation) {
  return (int64_t{taps} - 1) * dilation + 1;
}

// The number of windows that span `window` pixels along one axis, or 0 if none fits.
inline int64_t windows(int size, int64_t window, Padding padding, int stride, Rounding rounding) {
  const int64_t room = int64_t{size} + padding.before + padding.after - window;
  if (room < 0) return 0;
  const int64_t up = rounding == Rounding::ceil ? stride - 1 : 0;
  return (room + up) / stride + 1;
}

// As windows(), but refuses a size at which none fits; `is` begins the message.
inline int64_t some_windows(const std::string& is, int size, int64_t window, Padding padding, int stride,
                            Rounding rounding) {
  const int64_t count = windows(size, window, padding, stride, rounding);
  require(count > 0, is + " " + std::to_string(window) + ", larger than the padded image, " +
                         std::to_string(int64_t{size} + padding.before + padding.after));
  return count;
}

// Checks the place of k channels in a concatenation of `pitch` channels.
inline void placed(int k, int pitch, int first) {
  at_least("first", first, 0);
  require(int64_t{first} + k <= pitch, "pitch must be at least first + k, " +
                                           std::to_string(int64_t{first} + k) + ", not " +
                                           std::to_string(pitch));
}

// The number of a convolution's windows along one axis, "h" or "w", for a filter of `taps`, which messages
// call `name`: `given` unless that is 0. Windows may be outside the image.
inline int conv_windows(const std::string& name, const std::string& axis, int size, int taps, Padding padding,
                        int stride, int dilation, Rounding rounding, int given) {
  at_least(("pad_" + axis).c_str(), padding.before, 0);
  at_least(axis == "h" ? "pad_bottom" : "pad_right", padding.after, 0);
  const int64_t window = extent(taps, dilation);
  const std::string span = dilation == 1 ? name + " is"
                                         : name + " is " + std::to_string(taps) + " and dilation_" + axis +
                                               " " + std::to_string(dilation) + ", together";
  const int64_t count = given > 0 ? given : some_windows(span, size, window, padding, stride, rounding);
  // Kernels form coordinates such as p*stride - pad + r*dilation and h + pad in int.
  require(count * stride + window + padding.before <= INT32_MAX / 2 &&
              int64_t{size} + padding.before <= INT32_MAX,
          "outputs, stride, padding, dilation or filter is too large");
  return static_cast<int>(count);
}

// The number of a pool's windows along one axis, "h" or "w": `given` unless that is 0. Each contains a pixel.
inline int pool_windows(const std::string& axis, int size, int window, Padding padding, int stride,
                        Rounding rounding, int given) {
  const std::string pad = "pad_" + axis, window_name = "window_" + axis;
  require(padding.before < window, pad + " must be smaller than " + window_name);
  require(padding.after < window,
          (axis == "h" ? "pad_bottom" : "pad_right") + (" must be smaller than " + window_name));
  require(padding.before > -size, pad + " must be above " + std::to_string(-size) +
                                      ", where the first window would begin behind the image, not " +
                                      std::to_string(padding.before));
  // Windows that begin at the last pixel or before; the others are empty, as in Caffe and PyTorch.
  const int64_t most = (int64_t{size} - 1 + padding.before) / stride + 1;
  require(given <= most, "outputs must be at most " + std::to_string(most) + " along " + axis + ", not " +
                             std::to_string(given) + ": each window must hold a pixel");
  const int64_t count =
      given > 0 ? given
                : std::min(most, some_windows(window_name + " is", size, window, padding, stride, rounding));
  // Kernels form coordinates such as p*stride - pad + window and h + pad + stride in int.
  require(count * stride + window - std::min(padding.before, 0) <= INT32_MAX / 2 &&
              int64_t{size} + std::max(padding.before, padding.after) + stride <= INT32_MAX,
          "stride, window or padding is too large along " + axis);
  return static_cast<int>(count);
}

}  // namespace detail

using detail::Padding;

}  // namespace cconvnet
