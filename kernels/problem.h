// The problems that the library solves: each struct describes the shape of one operation. Shapes are computed
// here and nowhere else. make() checks a problem, so that kernels may rely on it. Those of the update are in
// update_problem.h.
//
// Layout is NHWC throughout: activations x[N,H,W,C] and y[N,P,Q,K], filters w[K,R,S,C/groups]. Every tensor
// of a problem has fewer than 2^31 elements, so kernels index with int.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <string>

#include "update_problem.h"
#include "core/shapes.h"

namespace cconvnet {

// The type in which a product's numbers are stored and multiplied; sums are always floats.
//   fp32    floats, multiplied as in IEEE 754
//   tf32    floats, each rounded to 10 bits of fraction when a tensor core multiplies it (to nearest, ties away
//           from zero); the same as fp32 where no tensor core does
//   bf16    activations and the weights that products read are bfloat16; weight gradients and biases are
//           floats
//   fp32x3  floats, each split into the sum of two tf32s; a tensor core adds three of their four products; the
//           same as fp32 where no tensor core does
enum class Precision { fp32, tf32, bf16, fp32x3 };

// A convolution, in fact a cross-correlation as everywhere in this field:
//   y[n,p,q,k] = sum over r, s, c of x[n, p*stride_h - pad_h + r*dilation_h,
//                                         q*stride_w - pad_w + s*dilation_w, g*C/groups + c] * w[k,r,s,c],
//   g = k / (K/groups),
// where x is zero outside the image. p and q are given, not derived: the last windows may read zeros beyond
// the bottom and right edge, and the padding there is what they read, be it more than at the top and left or
// less.
// y may be placed in a concatenation: then the pixels of the array y[N,P,Q,y_pitch] have y_pitch channels, of
// which the convolution writes K, from y_first on, and leaves the others as they are.
struct ConvProblem {
  int n, h, w, c;
  int k, r, s;
  int p, q;
  int stride_h, stride_w;
  int pad_h, pad_w;  // above and to the left
  int groups;
  Precision precision;
  int dilation_h = 1, dilation_w = 1;
  int y_pitch = 0, y_first = 0;  // 0 where y is not placed

  // p and q are how many windows there are, or 0: as many as the padded image and `rounding` give.
  static ConvProblem make(int n, int h, int w, int c, int k, int r, int s, int stride_h, int stride_w,
                          Padding pad_h, Padding pad_w, int groups, Rounding rounding,
                          Precision precision = Precision::fp32, int dilation_h = 1, int dilation_w = 1,
                          int p = 0, int q = 0) {
    detail::at_least("n", n, 1);
    detail::at_least("h", h, 1);
    detail::at_least("w", w, 1);
    detail::at_least("c", c, 1);
    detail::at_least("k", k, 1);
    detail::at_least("r", r, 1);
    detail::at_least("s", s, 1);
    detail::at_least("stride_h", stride_h, 1);
    detail::at_least("stride_w", stride_w, 1);
    detail::at_least("dilation_h", dilation_h, 1);
    detail::at_least("dilation_w", dilation_w, 1);
    detail::at_least("groups", groups, 1);
    detail::require(c % groups == 0,
                    "groups (" + std::to_string(groups) + ") must divide c (" + std::to_string(c) + ")");
    detail::require(k % groups == 0,
                    "groups (" + std::to_string(groups) + ") must divide k (" + std::to_string(k) + ")");
    p = detail::conv_windows("r", "h", h, r, pad_h, stride_h, dilation_h, rounding, p);
    q = detail::conv_windows("s", "w", w, s, pad_w, stride_w, dilation_w, rounding, q);
    detail::fits("x", {n, h, w, c});
    detail::fits("w", {k, r, s, c / groups});
    detail::fits("y", {n, p, q, k});
    return {n,
            h,
            w,
            c,
            k,
            r,
            s,
            p,
            q,
            stride_h,
            stride_w,
            pad_h.before,
            pad_w.before,
            groups,
            precision,
            dilation_h,
            dilation_w};
  }

  // The same convolution with y placed.
  ConvProblem placed(int pitch, int first) const {
    detail::placed(k, pitch, first);
    detail::fits("y", {n, p, q, pitch});
    ConvProblem problem = *this;
    problem.y_pitch = pitch;
    problem.y_first = first;
    return problem;
  }

  bool is_placed() const { return y_pitch != 0; }
  int pixel_pitch() const { return is_placed() ? y_pitch : k; }  // elements of y from pixel to pixel
  int c_per_group() const { return c / groups; }
  int k_per_group() const { return k / groups; }
  int x_count() const { return n * h * w * c; }
  int w_count() const { return k * r * s * c_per_group(); }
  int y_count() const { return n * p * q * pixel_pitch(); }  // of the array
  int outputs() const { return n * p * q * k; }
  int bias_count() const { return k; }
  // One multiply-add counts as two.
  double flops() const { return 2.0 * outputs() * r * s * c_per_group(); }

  bool operator==(const ConvProblem& other) const {
    return n == other.n && h == other.h && w == other.w && c == other.c && k == other.k && r == other.r &&
           s == other.s && p == other.p && q == other.q && stride_h == other.stride_h &&
           stride_w == other.stride_w && pad_h == other.pad_h && pad_w == other.pad_w &&
           groups == other.groups && precision == other.precision && dilation_h == other.dilation_h &&
           dilation_w == other.dilation_w && y_pitch == other.y_pitch && y_first == other.y_first;
  }
};

// A locally connected layer: a convolution whose every output position has filters and biases of its own,
// w[P,Q,K,R,S,C/groups] and bias[P,Q,K]. Positions and windows are the convolution's; dilation is not
// offered.
struct LocalProblem : ConvProblem {
  static LocalProblem make(const ConvProblem& windows) {
    detail::require(windows.dilation_h == 1 && windows.dilation_w == 1,
                    "dilation must be 1 for a locally connected layer");
    detail::require(!windows.is_placed(), "y of a locally connected layer cannot be placed");
    detail::fits("w", {windows.p, windows.q, windows.w_count()});
    return {windows};
  }

  int positions() const { return p * q; }
  int w_count() const { return positions() * ConvProblem::w_count(); }
  int bias_count() const { return positions() * k; }
};

// A fully connected layer: y[n,k] = sum over c of x[n,c] * w[k,c].
struct FcProblem {
  int n, c, k;
  Precision precision;

  static FcProblem make(int n, int c, int k, Precision precision = Precision::fp32) {
    detail::at_least("n", n, 1);
    detail::at_least("c", c, 1);
    detail::at_least("k", k, 1);
    detail::fits("x", {n, c});
    detail::fits("w", {k, c});
    detail::fits("y", {n, k});
    return {n, c, k, precision};
  }

  int x_count() const { return n * c; }
  int w_count() const { return k * c; }
  int y_count() const { return n * k; }
  int bias_count() const { return k; }
  double flops() const { return 2.0 * y_count() * c; }

  // The same sum as a 1x1 convolution of 1x1 images.
  ConvProblem as_conv() const { return {n, 1, 1, c, k, 1, 1, 1, 1, 1, 1, 0, 0, 1, precision}; }

  bool operator==(const FcProblem& other) const {
    return n == other.n && c == other.c && k == other.k && precision == other.precision;
  }
};

// A bias[k] added to each row of a matrix[rows, k]; its gradient is a sum over the rows.
// Where y is placed in a concatenation, y and dy of relu_bias_backward are matrices[rows, pitch], of which it
// reads k columns from `first` on.
struct BiasProblem {
  int rows, k;
  int pitch = 0, first = 0;  // 0 where y is not placed

  static BiasProblem make(int rows, int k) {
    detail::at_least("rows", rows, 1);
    detail::at_least("k", k, 1);
    detail::fits("the matrix", {rows, k});
    return {rows, k};
  }

  BiasProblem placed(int own_pitch, int own_first) const {
    detail::placed(k, own_pitch, own_first);
    detail::fits("the matrix", {rows, own_pitch});
    return {rows, k, own_pitch, own_first};
  }

  bool is_placed() const { return pitch != 0; }
  int count() const { return rows * k; }
  int y_count() const { return rows * (is_placed() ? pitch : k); }  // of the arrays y and dy
};

// cuda-convnet's neurons, f(x):
//   linear a*x + b; relu max(0, x); tanh a*tanh(b*x); logistic 1/(1 + exp(-x)); softrelu log(1 + exp(x));
//   abs |x|; square x*x; sqrt sqrt(x); brelu min(a, max(0, x));
// and one that it does not have, silu x/(1 + exp(-x)).
enum class Neuron { linear, relu, tanh, logistic, softrelu, abs, square, sqrt, brelu, silu };

struct NeuronProblem {
  int count;
  Neuron neuron;
  float a, b;

  static NeuronProblem make(int count, Neuron neuron, float a, float b) {
    detail::at_least("count", count, 1);
    detail::require(neuron != Neuron::brelu || a > 0, "a must be positive for brelu");
    return {count, neuron, a, b};
  }
};

// Max and average pooling. Window (p, q) begins at pixel (p*stride_h - pad_h, q*stride_w - pad_w), so with a
// negative padding the first begins inside the image. Windows are clipped to the image, and each contains a
// pixel of it. An average divides by the size of the clipped window. With count_padding it divides by the
// size of the window clipped to the padded image, as if the padding were pixels of 0. Pixels that no window
// contains have no gradient.
struct PoolProblem {
  int n, h, w, c;
  int p, q;
  int window_h, window_w;
  int stride_h, stride_w;
  int pad_h, pad_w;  // above and to the left
  // Below and to the right, which count_padding alone asks for.
  int pad_bottom, pad_right;
  bool count_padding;

  // p and q are how many windows there are, or 0: as many as the padded image and `rounding` give.
  static PoolProblem make(int n, int h, int w, int c, int window_h, int window_w, int stride_h, int stride_w,
                          Padding pad_h, Padding pad_w, Rounding rounding, int p = 0, int q = 0,
                          bool count_padding = false) {
    detail::at_least("n", n, 1);
    detail::at_least("h", h, 1);
    detail::at_least("w", w, 1);
    detail::at_least("c", c, 1);
    detail::at_least("window_h", window_h, 1);
    detail::at_least("window_w", window_w, 1);
    detail::at_least("stride_h", stride_h, 1);
    detail::at_least("stride_w", stride_w, 1);
    p = detail::pool_windows("h", h, window_h, pad_h, stride_h, rounding, p);
    q = detail::pool_windows("w", w, window_w, pad_w, stride_w, rounding, q);
    detail::require(!count_padding || std::min({pad_h.before, pad_h.after, pad_w.before, pad_w.after}) >= 0,
                    "padding must not be negative with count_padding");
    detail::fits("x", {n, h, w, c});
    detail::fits("y", {n, p, q, c});
    return {n,
            h,
            w,
            c,
            p,
            q,
            window_h,
            window_w,
            stride_h,
            stride_w,
            pad_h.before,
            pad_w.before,
            pad_h.after,
            pad_w.after,
            count_padding};
  }

  int x_count() const { return n * h * w * c; }
  int y_count() const { return n * p * q * c; }
};

// Local response normalisation, y = x * (k + alpha * sum of x^2 over a window)^-beta.
// Across channels the window of channel c is [c - size/2, c - size/2 + size), clipped to the c / groups
// channels of its own group. In the same map it is the size x size square that begins size/2 above and to the
// left, clipped to the image, in one channel. alpha multiplies the sum itself (the 2012 paper's way of
// writing; cuda-convnet's `scale` is alpha * size, or alpha * size^2 in the same map).
enum class LrnRegion { across_channels, same_map };

struct LrnProblem {
  int n, h, w, c;
  int groups;
  int size;
  float alpha, beta, k;
  LrnRegion region;

  static LrnProblem make(int n, int h, int w, int c, int groups, int size, float alpha, float beta, float k,
                         LrnRegion region) {
    detail::at_least("n", n, 1);
    detail::at_least("h", h, 1);
    detail::at_least("w", w, 1);
    detail::at_least("c", c, 1);
    detail::at_least("groups", groups, 1);
    detail::require(c % groups == 0,
                    "groups (" + std::to_string(groups) + ") must divide c (" + std::to_string(c) + ")");
    detail::at_least("size", size, 1);
    detail::require(size <= 32767, "size must be at most 32767");
    detail::require(alpha >= 0, "alpha must not be negative");
    detail::require(k > 0, "k must be positive");
    detail::fits("x", {n, h, w, c});
    return {n, h, w, c, groups, size, alpha, beta, k, region};
  }

  int count() const { return n * h * w * c; }
};

// Contrast normalisation: response normalisation in the same map, but by the differences to the local mean,
//   m = mean of x over the window, u = x - m, d = k + alpha * sum of u^2 over the window, y = x * d^-beta,
// where a pixel's window is the size x size square that begins size/2 above and to the left, clipped to the
// image, in one channel. alpha multiplies the sum itself, as in LrnProblem.
struct ContrastNormProblem {
  int n, h, w, c;
  int size;
  float alpha, beta, k;

  static ContrastNormProblem make(int n, int h, int w, int c, int size, float alpha, float beta, float k) {
    const LrnProblem lrn = LrnProblem::make(n, h, w, c, 1, size, alpha, beta, k, LrnRegion::same_map);
    return {lrn.n, lrn.h, lrn.w, lrn.c, lrn.size, lrn.alpha, lrn.beta, lrn.k};
  }

  int count() const { return n * h * w * c; }
};

// Batch normalisation of the columns of x[rows,k]: a row for each pixel, a column for each channel. The first
// `counted` rows count, others belong to images that a short batch lacks.
struct BatchNormProblem {
  int rows, k;
  int counted;
  float eps;

  // counted = 0 means all rows.
  static BatchNormProblem make(int rows, int k, int counted, float eps) {
    detail::at_least("rows", rows, 1);
    detail::at_least("k", k, 1);
    detail::at_least("counted", counted, 0);
    detail::require(counted <= rows, "counted must be at most rows, " + std::to_string(rows));
    detail::require(eps > 0 && std::isfinite(eps), "eps must be positive and finite");
    detail::fits("the matrix", {rows, k});
    return {rows, k, counted > 0 ? counted : rows, eps};
  }

  int count() const { return rows * k; }
};

// y = x * scale where a Philox draw keeps the element, else 0; an element is kept with probability `keep`.
// Element i takes word i % 4 of Philox4x32-10 with key `seed` and counter (i / 4, 0, subsequence), and is
// kept if that word is below keep * 2^32. The mask depends on nothing else.
//
// The call may serve a part of a tensor, as the towers of a network and the parts of a batch do: some rows,
// beginning with first_row, of a matrix whose rows have row_stride elements, and of them `columns` columns,
// beginning with `first`. Element i of the part has the index in the matrix, and so its mask there:
// (first_row + i / columns) * row_stride + first + i % columns. With columns = 0 the call serves the whole
// tensor, which is held as one row.
struct DropoutProblem {
  int count;
  float keep, scale;
  uint64_t seed, subsequence;
  int columns, row_stride, first;
  int first_row = 0;

  static DropoutProblem make(int count, float keep, float scale, uint64_t seed, uint64_t subsequence,
                             int columns, int row_stride, int first, int first_row = 0) {
    detail::at_least("count", count, 1);
    detail::require(keep > 0 && keep <= 1, "keep must be above 0 and at most 1");
    detail::at_least("columns", columns, 0);
    if (columns == 0) {
      detail::require(row_stride == 0 && first == 0 && first_row == 0,
                      "columns must be given with row_stride, first and first_row");
      return {count, keep, scale, seed, subsequence, count, count, 0};
    }
    detail::require(count % columns == 0, "columns (" + std::to_string(columns) + ") must divide count (" +
                                              std::to_string(count) + ")");
    detail::at_least("first", first, 0);
    detail::require(int64_t{first} + columns <= row_stride, "row_stride must be at least first + columns, " +
                                                                std::to_string(int64_t{first} + columns) +
                                                                ", not " + std::to_string(row_stride));
    detail::at_least("first_row", first_row, 0);
    const int64_t last = (int64_t{first_row} + count / columns - 1) * row_stride + first + columns - 1;
    detail::require(last <= INT32_MAX, "row_stride or first_row is too large: the last index would be " +
                                           std::to_string(last) + ", above 2^31 - 1");
    return {count, keep, scale, seed, subsequence, columns, row_stride, first, first_row};
  }

  // How many elements are side by side in the matrix: those of a row, or all where rows are whole.
  int stretch() const { return columns == row_stride ? count : columns; }
  // The index of the first element in the matrix.
  int first_index() const { return first_row * row_stride + first; }
  bool whole() const { return stretch() == count && first_index() == 0; }

  // As 64 bits, so that keep = 1 keeps every 32-bit word.
  uint64_t threshold() const { return static_cast<uint64_t>(static_cast<double>(keep) * 4294967296.0); }
};

// Softmax over the k logits of each of n rows. If `ignores`, rows with the label `ignore` count for nothing.
// The target of a class is smoothing / k, and 1 - smoothing more for the label's.
struct SoftmaxProblem {
  int n, k;
  bool ignores = false;
  int ignore = 0;
  float smoothing = 0.0f;

  static SoftmaxProblem make(int n, int k, bool ignores = false, int ignore = 0, float smoothing = 0.0f) {
    detail::at_least("n", n, 1);
    detail::at_least("k", k, 1);
    detail::require(smoothing >= 0 && smoothing <= 1, "smoothing must be from 0 to 1");
    detail::fits("logits", {n, k});
    return {n, k, ignores, ignores ? ignore : 0, smoothing};
  }

  int count() const { return n * k; }
};

// The squared distance of each of n rows of k values from its target.
struct L2CostProblem {
  int n, k;

  static L2CostProblem make(int n, int k) {
    detail::at_least("n", n, 1);
    detail::at_least("k", k, 1);
    detail::fits("x", {n, k});
    return {n, k};
  }

  int count() const { return n * k; }
};

// uint8 images[N,H,W,C] to a batch y[N,P,Q,C]: a p x q crop of each image, perhaps mirrored.
// With center_mean, the mean subtracted is always that of the image's centre, as in the original AlexNet, not
// that of the crop's position.
// Each image has `margin` rows and columns of zeros around it, into which a crop may reach. They are zeros of
// y: the mean is not subtracted there, nor a shift added.
// With block > 1 follows space to depth. The crop gets `pad` rows and columns of zeros around it, and as many
// more at the bottom and right as make its sides multiples of `block`. It is then cut into block x block
// squares. Each becomes one pixel of y[N, blocks_h, blocks_w, block*block*C], its channels in the order row,
// column, c.
struct InputProblem {
  int n, h, w, c;
  int p, q;
  bool center_mean;
  int block, pad;
  int margin;

  static InputProblem make(int n, int h, int w, int c, int p, int q, bool center_mean, int block = 1,
                           int pad = 0, int margin = 0) {
    detail::at_least("n", n, 1);
    detail::at_least("h", h, 1);
    detail::at_least("w", w, 1);
    detail::at_least("c", c, 1);
    detail::at_least("p", p, 1);
    detail::at_least("q", q, 1);
    detail::at_least("block", block, 1);
    detail::at_least("pad", pad, 0);
    detail::at_least("margin", margin, 0);
    detail::require(block > 1 || pad == 0, "pad must be 0 where block is 1");
    detail::require(p <= h && q <= w, "the crop (" + std::to_string(p) + "x" + std::to_string(q) +
                                          ") is larger than the image (" + std::to_string(h) + "x" +
                                          std::to_string(w) + ")");
    detail::fits("images", {n, h, w, c});
    detail::require(int64_t{pad} + block <= INT32_MAX / 4, "block or pad is too large");
    detail::require(int64_t{margin} + std::max(h, w) <= INT32_MAX / 2, "margin is too large");
    const InputProblem problem = {n, h, w, c, p, q, center_mean, block, pad, margin};
    detail::fits("y", {n, problem.blocks_h() * block, problem.blocks_w() * block, c});
    return problem;
  }

  int blocks_h() const { return detail::ceil_div(p + 2 * pad, block); }
  int blocks_w() const { return detail::ceil_div(q + 2 * pad, block); }
  int images_count() const { return n * h * w * c; }
  int y_count() const { return n * blocks_h() * block * blocks_w() * block * c; }
};

// Filters w[K,R,S,C] of a convolution with stride `block`, and the same filters for images of blocks, [K,
// blocks_r, blocks_s, block*block*C] with stride 1. They are padded with zeros at the bottom and right, then
// cut into squares like InputProblem's images.
struct FilterBlocksProblem {
  int k, r, s, c;
  int block;

  static FilterBlocksProblem make(int k, int r, int s, int c, int block) {
    detail::at_least("k", k, 1);
    detail::at_least("r", r, 1);
    detail::at_least("s", s, 1);
    detail::at_least("c", c, 1);
    detail::at_least("block", block, 1);
    detail::require(int64_t{r} + block <= INT32_MAX / 2 && int64_t{s} + block <= INT32_MAX / 2,
                    "r, s or block is too large");
    const FilterBlocksProblem problem = {k, r, s, c, block};
    detail::fits("blocks", {k, problem.blocks_r(), block, problem.blocks_s() * block, c});
    return problem;
  }

  int blocks_r() const { return detail::ceil_div(r, block); }
  int blocks_s() const { return detail::ceil_div(s, block); }
  int w_count() const { return k * r * s * c; }
  int blocks_count() const { return k * blocks_r() * blocks_s() * block * block * c; }
};

}  // namespace cconvnet
