// The text of a problem: the line of Python that creates an equal one. Failing tests print it, and so do the
// log and the errors of the selection tables.
#pragma once

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <string>
#include <utility>
#include <vector>

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

  static std::string text(const std::vector<int>& values) {
    std::string list;
    for (int value : values) list += (list.empty() ? "" : ", ") + text(value);
    return "[" + list + "]";
  }

  // Few digits where they give the same float; nine always suffice.
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

inline std::string repr_of_windows(const char* type, const ConvProblem& problem) {
  const auto derived = [&](Rounding rounding) {
    return problem.p == windows(problem.h, extent(problem.r, problem.dilation_h), problem.pad_h,
                                problem.stride_h, rounding) &&
           problem.q == windows(problem.w, extent(problem.s, problem.dilation_w), problem.pad_w,
                                problem.stride_w, rounding);
  };
  Repr text(type);
  text("n", problem.n)("h", problem.h)("w", problem.w)("c", problem.c)("k", problem.k)("r", problem.r)(
      "s", problem.s)("stride", std::make_pair(problem.stride_h, problem.stride_w))(
      "padding", std::make_pair(problem.pad_h, problem.pad_w))("groups", problem.groups);
  // The rounding from which p and q follow, if there is one.
  if (derived(Rounding::floor)) {
    text("rounding", "floor");
  } else if (derived(Rounding::ceil)) {
    text("rounding", "ceil");
  } else {
    text("outputs", std::make_pair(problem.p, problem.q));
  }
  text("precision", to_name(kPrecisions, problem.precision));
  if (problem.dilation_h != 1 || problem.dilation_w != 1) {
    text("dilation", std::make_pair(problem.dilation_h, problem.dilation_w));
  }
  return text.done();
}

inline std::string placed_repr(int pitch, int first) {
  return ".placed(" + std::to_string(pitch) + ", " + std::to_string(first) + ")";
}

}  // namespace detail

inline std::string repr(const ConvProblem& problem) {
  return detail::repr_of_windows("ConvProblem", problem) +
         (problem.is_placed() ? detail::placed_repr(problem.y_pitch, problem.y_first) : "");
}

inline std::string repr(const LocalProblem& problem) {
  return detail::repr_of_windows("LocalProblem", problem);
}

inline std::string repr(const FcProblem& problem) {
  return Repr("FcProblem")("n", problem.n)("c", problem.c)("k", problem.k)(
             "precision", to_name(kPrecisions, problem.precision))
      .done();
}

inline std::string repr(const BiasProblem& problem) {
  return Repr("BiasProblem")("rows", problem.rows)("k", problem.k).done() +
         (problem.is_placed() ? detail::placed_repr(problem.pitch, problem.first) : "");
}

inline std::string repr(const NeuronProblem& problem) {
  return Repr("NeuronProblem")("count", problem.count)("neuron", to_name(kNeurons, problem.neuron))(
             "a", problem.a)("b", problem.b)
      .done();
}

inline std::string repr(const PoolProblem& problem) {
  const auto pair = [](int first, int second) { return std::make_pair(first, second); };
  Repr text("PoolProblem");
  text("n", problem.n)("h", problem.h)("w", problem.w)("c", problem.c)(
      "window", pair(problem.window_h, problem.window_w))("stride", pair(problem.stride_h, problem.stride_w));
  if (problem.pad_h != problem.pad_bottom || problem.pad_w != problem.pad_right) {
    text("padding",
         std::make_pair(pair(problem.pad_h, problem.pad_bottom), pair(problem.pad_w, problem.pad_right)));
  } else {
    text("padding", pair(problem.pad_h, problem.pad_w));
  }
  text("outputs", pair(problem.p, problem.q));
  if (problem.count_padding) text("count_padding", true);
  return text.done();
}

inline std::string repr(const LrnProblem& problem) {
  return Repr("LrnProblem")("n", problem.n)("h", problem.h)("w", problem.w)("c", problem.c)(
             "size", problem.size)("alpha", problem.alpha)("beta", problem.beta)("k", problem.k)(
             "groups", problem.groups)("region", to_name(kRegions, problem.region))
      .done();
}

inline std::string repr(const ContrastNormProblem& problem) {
  return Repr("ContrastNormProblem")("n", problem.n)("h", problem.h)("w", problem.w)("c", problem.c)(
             "size", problem.size)("alpha", problem.alpha)("beta", problem.beta)("k", problem.k)
      .done();
}

inline std::string repr(const BatchNormProblem& problem) {
  return Repr("BatchNormProblem")("rows", problem.rows)("k", problem.k)("counted", problem.counted)(
             "eps", problem.eps)
      .done();
}

inline std::string repr(const DropoutProblem& problem) {
  Repr text("DropoutProblem");
  text("count", problem.count)("keep", problem.keep)("scale", problem.scale)("seed", problem.seed)(
      "subsequence", problem.subsequence);
  if (!problem.whole())
    text("columns", problem.columns)("row_stride", problem.row_stride)("first", problem.first);
  if (problem.first_row > 0) text("first_row", problem.first_row);
  return text.done();
}

inline std::string repr(const SoftmaxProblem& problem) {
  Repr text("SoftmaxProblem");
  text("n", problem.n)("k", problem.k);
  if (problem.ignores) text("ignore", problem.ignore);
  if (problem.smoothing > 0) text("smoothing", problem.smoothing);
  return text.done();
}

inline std::string repr(const L2CostProblem& problem) {
  return Repr("L2CostProblem")("n", problem.n)("k", problem.k).done();
}

inline std::string repr(const SgdProblem& problem) {
  Repr text("SgdProblem");
  text("count", problem.count)("lr", problem.lr)("momentum", problem.momentum)("weight_decay",
                                                                               problem.weight_decay);
  if (problem.nesterov) text("nesterov", true);
  return text.done();
}

inline std::string repr(const LarsProblem& problem) {
  return Repr("LarsProblem")("count", problem.count)("eta", problem.eta)(
             "weight_decay", problem.weight_decay)("eps", problem.eps)
      .done();
}

inline std::string repr(const NormLimitProblem& problem) {
  return Repr("NormLimitProblem")("rows", problem.rows)("columns", problem.columns)("limit", problem.limit)(
             "low", problem.low)("centered", problem.centered)
      .done();
}

inline std::string repr(const TreeSumProblem& problem) {
  return Repr("TreeSumProblem")("count", problem.count)("merges", problem.merges_of_parts())("scale",
                                                                                             problem.scale)
      .done();
}

inline std::string repr(const InputProblem& problem) {
  return Repr("InputProblem")("n", problem.n)("h", problem.h)("w", problem.w)("c", problem.c)("p", problem.p)(
             "q", problem.q)("center_mean", problem.center_mean)("block", problem.block)("pad", problem.pad)(
             "margin", problem.margin)
      .done();
}

inline std::string repr(const FilterBlocksProblem& problem) {
  return Repr("FilterBlocksProblem")("k", problem.k)("r", problem.r)("s", problem.s)("c", problem.c)(
             "block", problem.block)
      .done();
}

}  // namespace cconvnet
