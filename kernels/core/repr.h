// The text of a problem: the line of Python that makes an equal one. A failing test prints it, and so do the
// log and the errors of the selection tables.
#pragma once

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <string>
#include <utility>

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

// Those of the problems that selection tables serve; the others' stand with their Python types.
inline std::string repr(const ConvProblem& o) {
  return detail::repr_of_windows("ConvProblem", o);
}

inline std::string repr(const LocalProblem& o) {
  return detail::repr_of_windows("LocalProblem", o);
}

}  // namespace cconvnet
