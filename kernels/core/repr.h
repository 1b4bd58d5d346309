// The text of a problem: the line of Python that makes an equal one. A failing test prints it, and so do the
// log and the errors of the selection tables.
#pragma once

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <string>
#include <utility>

#include "core/names.h"
#include "problem.h"

namespace cconvnet {

// Repr("FcProblem")("n", 2)("c", 3)("k", 4).done() is "FcProblem(n=2, c=3, k=4)".
class Repr {
 public:
  explicit Repr(const char* type) : text_(std::string(type) + "(") {}

  template <class T>
  Repr& operator()(const char* name, const T& value) {
    text_ += (text_.back() == '(' ? "" : ", ") + std::string(name) + "=" + text(value);
    return *this;
  }

  std::string done() const { return text_ + ")"; }

 private:
  static std::string text(int value) { return std::to_string(value); }
  static std::string text(uint64_t value) { return std::to_string(value); }
  static std::string text(const char* value) { return "'" + std::string(value) + "'"; }
  static std::string text(const std::pair<int, int>& value) {
    return "(" + text(value.first) + ", " + text(value.second) + ")";
  }
  static std::string text(const std::pair<std::pair<int, int>, std::pair<int, int>>& value) {
    return "(" + text(value.first) + ", " + text(value.second) + ")";
  }

  // Few digits where they give the same float; nine always do.
  static std::string text(float value) {
    char digits[32];
    int precision = 6;
    do {
      std::snprintf(digits, sizeof(digits), "%.*g", precision, static_cast<double>(value));
    } while (std::strtof(digits, nullptr) != value && ++precision <= 9);
    return digits;
  }

  std::string text_;
};

namespace detail {

inline std::string repr_of_windows(const char* type, const ConvProblem& o) {
  const auto derived = [&](Rounding rounding) {
    return o.p == windows(o.h, extent(o.r, o.dilation_h), o.pad_h, o.stride_h, rounding) &&
           o.q == windows(o.w, extent(o.s, o.dilation_w), o.pad_w, o.stride_w, rounding);
  };
  Repr text(type);
  text("n", o.n)("h", o.h)("w", o.w)("c", o.c)("k", o.k)("r", o.r)("s", o.s)(
      "stride", std::make_pair(o.stride_h, o.stride_w))("padding", std::make_pair(o.pad_h, o.pad_w))(
      "groups", o.groups);
  // What gave p and q, if it was a rounding.
  if (derived(Rounding::floor)) {
    text("rounding", "floor");
  } else if (derived(Rounding::ceil)) {
    text("rounding", "ceil");
  } else {
    text("outputs", std::make_pair(o.p, o.q));
  }
  text("precision", precision_name(o.precision));
  if (o.dilation_h != 1 || o.dilation_w != 1) {
    text("dilation", std::make_pair(o.dilation_h, o.dilation_w));
  }
  return text.done();
}

}  // namespace detail

inline std::string repr(const ConvProblem& o) {
  return detail::repr_of_windows("ConvProblem", o);
}

inline std::string repr(const LocalProblem& o) {
  return detail::repr_of_windows("LocalProblem", o);
}

inline std::string repr(const FcProblem& o) {
  return Repr("FcProblem")("n", o.n)("c", o.c)("k", o.k)("precision", precision_name(o.precision)).done();
}

inline std::string repr(const BiasProblem& o) {
  return Repr("BiasProblem")("rows", o.rows)("k", o.k).done();
}

inline std::string repr(const NeuronProblem& o) {
  return Repr("NeuronProblem")("count", o.count)("neuron", to_name(kNeurons, o.neuron))("a", o.a)("b", o.b)
      .done();
}

inline std::string repr(const PoolProblem& o) {
  const auto pair = [](int first, int second) { return std::make_pair(first, second); };
  Repr text("PoolProblem");
  text("n", o.n)("h", o.h)("w", o.w)("c", o.c)("window", pair(o.window_h, o.window_w))(
      "stride", pair(o.stride_h, o.stride_w));
  if (o.pad_h != o.pad_bottom || o.pad_w != o.pad_right) {
    text("padding", std::make_pair(pair(o.pad_h, o.pad_bottom), pair(o.pad_w, o.pad_right)));
  } else {
    text("padding", pair(o.pad_h, o.pad_w));
  }
  text("outputs", pair(o.p, o.q));
  if (o.count_padding) text("count_padding", true);
  return text.done();
}

inline std::string repr(const LrnProblem& o) {
  return Repr("LrnProblem")("n", o.n)("h", o.h)("w", o.w)("c", o.c)("size", o.size)("alpha", o.alpha)(
             "beta", o.beta)("k", o.k)("groups", o.groups)("region", to_name(kRegions, o.region))
      .done();
}

inline std::string repr(const ContrastNormProblem& o) {
  return Repr("ContrastNormProblem")("n", o.n)("h", o.h)("w", o.w)("c", o.c)("size", o.size)(
             "alpha", o.alpha)("beta", o.beta)("k", o.k)
      .done();
}

inline std::string repr(const DropoutProblem& o) {
  Repr text("DropoutProblem");
  text("count", o.count)("keep", o.keep)("scale", o.scale)("seed", o.seed)("subsequence", o.subsequence);
  if (!o.whole()) text("columns", o.columns)("row_stride", o.row_stride)("first", o.first);
  return text.done();
}

inline std::string repr(const SoftmaxProblem& o) {
  return Repr("SoftmaxProblem")("n", o.n)("k", o.k).done();
}

inline std::string repr(const SgdProblem& o) {
  return Repr("SgdProblem")("count", o.count)("lr", o.lr)("momentum", o.momentum)("weight_decay",
                                                                                  o.weight_decay)
      .done();
}

inline std::string repr(const NormLimitProblem& o) {
  return Repr("NormLimitProblem")("rows", o.rows)("columns", o.columns)("limit", o.limit)("low", o.low)(
             "centered", o.centered)
      .done();
}

inline std::string repr(const InputProblem& o) {
  return Repr("InputProblem")("n", o.n)("h", o.h)("w", o.w)("c", o.c)("p", o.p)("q", o.q)(
             "center_mean", o.center_mean)("block", o.block)("pad", o.pad)
      .done();
}

inline std::string repr(const FilterBlocksProblem& o) {
  return Repr("FilterBlocksProblem")("k", o.k)("r", o.r)("s", o.s)("c", o.c)("block", o.block).done();
}

}  // namespace cconvnet
