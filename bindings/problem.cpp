// cconvnet._problem: the structs of kernels/problem.h as Python types, shared by every compiled module.
#include <pybind11/operators.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <array>
#include <optional>
#include <utility>
#include <variant>

#include "problem.h"
#include "core/repr.h"

namespace py = pybind11;
using namespace py::literals;
using namespace cconvnet;

namespace {

using Pair = std::array<int, 2>;
// (vertical, horizontal), each for both ends or (before, after).
using PaddingPair = std::array<std::variant<int, Pair>, 2>;

Padding padding_of(const std::variant<int, Pair>& given) {
  if (const int* both = std::get_if<int>(&given)) return *both;
  const auto& [before, after] = std::get<Pair>(given);
  return {before, after};
}

// (p, q) of `outputs`, or zeros where there are none.
Pair counts_of(const std::optional<Pair>& outputs) {
  if (!outputs) return {0, 0};
  for (int count : *outputs) detail::at_least("outputs", count, 1);
  return *outputs;
}

// One name per enumerator, for reading arguments and for repr.
template <class Enum>
using Names = std::vector<std::pair<const char*, Enum>>;

const Names<Rounding> kRoundings = {{"floor", Rounding::floor}, {"ceil", Rounding::ceil}};
const Names<Precision> kPrecisions = {
    {"fp32", Precision::fp32}, {"tf32", Precision::tf32}, {"bf16", Precision::bf16}};
const Names<LrnRegion> kRegions = {{"across_channels", LrnRegion::across_channels},
                                   {"same_map", LrnRegion::same_map}};
const Names<Neuron> kNeurons = {
    {"linear", Neuron::linear},     {"relu", Neuron::relu},         {"tanh", Neuron::tanh},
    {"logistic", Neuron::logistic}, {"softrelu", Neuron::softrelu}, {"abs", Neuron::abs},
    {"square", Neuron::square},     {"sqrt", Neuron::sqrt},         {"brelu", Neuron::brelu}};

template <class Enum>
Enum from_name(const Names<Enum>& names, const char* argument, const std::string& given) {
  std::string allowed;
  for (const auto& [name, value] : names) {
    if (given == name) return value;
    allowed += std::string(allowed.empty() ? "" : ", ") + name;
  }
  throw std::invalid_argument(std::string(argument) + " must be one of " + allowed + ", not '" + given + "'");
}

template <class Enum>
const char* to_name(const Names<Enum>& names, Enum wanted) {
  for (const auto& [name, value] : names) {
    if (value == wanted) return name;
  }
  return "?";
}

// repr(problem); those of ConvProblem and LocalProblem are the kernels' own.
std::string repr(const FcProblem& o) {
  return Repr("FcProblem")("n", o.n)("c", o.c)("k", o.k)("precision", precision_name(o.precision)).done();
}

std::string repr(const BiasProblem& o) {
  return Repr("BiasProblem")("rows", o.rows)("k", o.k).done();
}

std::string repr(const NeuronProblem& o) {
  return Repr("NeuronProblem")("count", o.count)("neuron", to_name(kNeurons, o.neuron))("a", o.a)("b", o.b)
      .done();
}

std::string repr(const PoolProblem& o) {
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

std::string repr(const LrnProblem& o) {
  return Repr("LrnProblem")("n", o.n)("h", o.h)("w", o.w)("c", o.c)("size", o.size)("alpha", o.alpha)(
             "beta", o.beta)("k", o.k)("groups", o.groups)("region", to_name(kRegions, o.region))
      .done();
}

std::string repr(const ContrastNormProblem& o) {
  return Repr("ContrastNormProblem")("n", o.n)("h", o.h)("w", o.w)("c", o.c)("size", o.size)(
             "alpha", o.alpha)("beta", o.beta)("k", o.k)
      .done();
}

std::string repr(const DropoutProblem& o) {
  Repr text("DropoutProblem");
  text("count", o.count)("keep", o.keep)("scale", o.scale)("seed", o.seed)("subsequence", o.subsequence);
  if (!o.whole()) text("columns", o.columns)("row_stride", o.row_stride)("first", o.first);
  return text.done();
}

std::string repr(const SoftmaxProblem& o) {
  return Repr("SoftmaxProblem")("n", o.n)("k", o.k).done();
}

std::string repr(const SgdProblem& o) {
  return Repr("SgdProblem")("count", o.count)("lr", o.lr)("momentum", o.momentum)("weight_decay",
                                                                                  o.weight_decay)
      .done();
}

std::string repr(const NormLimitProblem& o) {
  return Repr("NormLimitProblem")("rows", o.rows)("columns", o.columns)("limit", o.limit)("low", o.low)(
             "centered", o.centered)
      .done();
}

std::string repr(const InputProblem& o) {
  return Repr("InputProblem")("n", o.n)("h", o.h)("w", o.w)("c", o.c)("p", o.p)("q", o.q)(
             "center_mean", o.center_mean)("block", o.block)("pad", o.pad)
      .done();
}

std::string repr(const FilterBlocksProblem& o) {
  return Repr("FilterBlocksProblem")("k", o.k)("r", o.r)("s", o.s)("c", o.c)("block", o.block).done();
}

// The text says all of a problem, so equality and hash may rest on it.
template <class Problem>
py::class_<Problem> problem(py::module_& m, const char* name, const char* doc) {
  return py::class_<Problem>(m, name, doc)
      .def("__repr__", [](const Problem& o) { return repr(o); })
      .def(
          "__eq__", [](const Problem& a, const Problem& b) { return repr(a) == repr(b); }, py::is_operator())
      .def("__hash__", [](const Problem& o) { return py::hash(py::str(repr(o))); });
}

// What a convolution and a locally connected layer have in common: all but their filters.
template <class Problem, class Make>
py::class_<Problem> windows_problem(py::module_& m, const char* name, const char* doc, const Make& make) {
  return problem<Problem>(m, name, doc)
      .def(py::init([make](int n, int h, int w, int c, int k, int r, int s, Pair stride, PaddingPair padding,
                           int groups, const std::string& rounding, const std::string& precision,
                           std::optional<Pair> outputs, Pair dilation) {
             const auto [p, q] = counts_of(outputs);
             return make(ConvProblem::make(
                 n, h, w, c, k, r, s, stride[0], stride[1], padding_of(padding[0]), padding_of(padding[1]),
                 groups, from_name(kRoundings, "rounding", rounding),
                 from_name(kPrecisions, "precision", precision), dilation[0], dilation[1], p, q));
           }),
           "n"_a, "h"_a, "w"_a, "c"_a, "k"_a, "r"_a, "s"_a, "stride"_a = Pair{1, 1}, "padding"_a = Pair{0, 0},
           "groups"_a = 1, "rounding"_a = "floor", "precision"_a = "fp32", "outputs"_a = py::none(),
           "dilation"_a = Pair{1, 1})
      .def_readonly("n", &Problem::n)
      .def_readonly("h", &Problem::h)
      .def_readonly("w", &Problem::w)
      .def_readonly("c", &Problem::c)
      .def_readonly("k", &Problem::k)
      .def_readonly("r", &Problem::r)
      .def_readonly("s", &Problem::s)
      .def_readonly("p", &Problem::p)
      .def_readonly("q", &Problem::q)
      .def_readonly("stride_h", &Problem::stride_h)
      .def_readonly("stride_w", &Problem::stride_w)
      .def_readonly("pad_h", &Problem::pad_h)
      .def_readonly("pad_w", &Problem::pad_w)
      .def_readonly("groups", &Problem::groups)
      .def_readonly("dilation_h", &Problem::dilation_h)
      .def_readonly("dilation_w", &Problem::dilation_w)
      .def_property_readonly("precision", [](const Problem& o) { return precision_name(o.precision); })
      .def_property_readonly("x_shape", [](const Problem& o) { return py::make_tuple(o.n, o.h, o.w, o.c); })
      .def_property_readonly("y_shape", [](const Problem& o) { return py::make_tuple(o.n, o.p, o.q, o.k); })
      .def_property_readonly("flops", [](const Problem& o) { return o.flops(); });
}

}  // namespace

PYBIND11_MODULE(_problem, m) {
  m.doc() = "The shapes of every operation; kernels/problem.h is the one place that computes them.";

  windows_problem<ConvProblem>(
      m, "ConvProblem",
      "x[n,h,w,c], w[k,r,s,c/groups], y[n,p,q,k]; stride, padding and dilation are (vertical, horizontal), "
      "padding perhaps with a pair (before, after) for an axis. outputs (p, q) takes the place of rounding "
      "and "
      "of the padding behind the image.",
      [](const ConvProblem& windows) { return windows; })
      .def_property_readonly(
          "w_shape", [](const ConvProblem& o) { return py::make_tuple(o.k, o.r, o.s, o.c_per_group()); });

  windows_problem<LocalProblem>(
      m, "LocalProblem",
      "A ConvProblem with filters w[p,q,k,r,s,c/groups] and bias[p,q,k] for every position.",
      &LocalProblem::make)
      .def_property_readonly(
          "w_shape",
          [](const LocalProblem& o) { return py::make_tuple(o.p, o.q, o.k, o.r, o.s, o.c_per_group()); })
      .def_property_readonly("bias_shape",
                             [](const LocalProblem& o) { return py::make_tuple(o.p, o.q, o.k); });

  problem<FcProblem>(m, "FcProblem", "x[n,c], w[k,c], y[n,k].")
      .def(py::init([](int n, int c, int k, const std::string& precision) {
             return FcProblem::make(n, c, k, from_name(kPrecisions, "precision", precision));
           }),
           "n"_a, "c"_a, "k"_a, "precision"_a = "fp32")
      .def_property_readonly("precision", [](const FcProblem& o) { return precision_name(o.precision); })
      .def_readonly("n", &FcProblem::n)
      .def_readonly("c", &FcProblem::c)
      .def_readonly("k", &FcProblem::k)
      .def_property_readonly("x_shape", [](const FcProblem& o) { return py::make_tuple(o.n, o.c); })
      .def_property_readonly("w_shape", [](const FcProblem& o) { return py::make_tuple(o.k, o.c); })
      .def_property_readonly("y_shape", [](const FcProblem& o) { return py::make_tuple(o.n, o.k); })
      .def_property_readonly("flops", &FcProblem::flops);

  problem<BiasProblem>(m, "BiasProblem", "x, y and dy[rows,k], bias and db[k].")
      .def(py::init(&BiasProblem::make), "rows"_a, "k"_a)
      .def_readonly("rows", &BiasProblem::rows)
      .def_readonly("k", &BiasProblem::k);

  problem<NeuronProblem>(m, "NeuronProblem", "An elementwise function with its parameters a and b.")
      .def(py::init([](int count, const std::string& neuron, float a, float b) {
             return NeuronProblem::make(count, from_name(kNeurons, "neuron", neuron), a, b);
           }),
           "count"_a, "neuron"_a = "relu", "a"_a = 1.0f, "b"_a = 0.0f)
      .def_readonly("count", &NeuronProblem::count)
      .def_property_readonly("neuron", [](const NeuronProblem& o) { return to_name(kNeurons, o.neuron); })
      .def_readonly("a", &NeuronProblem::a)
      .def_readonly("b", &NeuronProblem::b);

  problem<PoolProblem>(
      m, "PoolProblem",
      "x[n,h,w,c], y[n,p,q,c]; pairs are (vertical, horizontal), padding perhaps with a pair "
      "(before, after) for an axis. outputs (p, q) takes the place of rounding.")
      .def(py::init([](int n, int h, int w, int c, Pair window, Pair stride, PaddingPair padding,
                       const std::string& rounding, std::optional<Pair> outputs, bool count_padding) {
             const auto [p, q] = counts_of(outputs);
             return PoolProblem::make(n, h, w, c, window[0], window[1], stride[0], stride[1],
                                      padding_of(padding[0]), padding_of(padding[1]),
                                      from_name(kRoundings, "rounding", rounding), p, q, count_padding);
           }),
           "n"_a, "h"_a, "w"_a, "c"_a, "window"_a = Pair{3, 3}, "stride"_a = Pair{2, 2},
           "padding"_a = Pair{0, 0}, "rounding"_a = "floor", "outputs"_a = py::none(),
           "count_padding"_a = false)
      .def_readonly("n", &PoolProblem::n)
      .def_readonly("h", &PoolProblem::h)
      .def_readonly("w", &PoolProblem::w)
      .def_readonly("c", &PoolProblem::c)
      .def_readonly("p", &PoolProblem::p)
      .def_readonly("q", &PoolProblem::q)
      .def_readonly("window_h", &PoolProblem::window_h)
      .def_readonly("window_w", &PoolProblem::window_w)
      .def_readonly("stride_h", &PoolProblem::stride_h)
      .def_readonly("stride_w", &PoolProblem::stride_w)
      .def_readonly("pad_h", &PoolProblem::pad_h)
      .def_readonly("pad_w", &PoolProblem::pad_w)
      .def_readonly("pad_bottom", &PoolProblem::pad_bottom)
      .def_readonly("pad_right", &PoolProblem::pad_right)
      .def_readonly("count_padding", &PoolProblem::count_padding)
      .def_property_readonly("x_shape",
                             [](const PoolProblem& o) { return py::make_tuple(o.n, o.h, o.w, o.c); })
      .def_property_readonly("y_shape",
                             [](const PoolProblem& o) { return py::make_tuple(o.n, o.p, o.q, o.c); });

  problem<LrnProblem>(m, "LrnProblem", "x[n,h,w,c]; alpha multiplies the plain sum of squares.")
      .def(py::init([](int n, int h, int w, int c, int size, float alpha, float beta, float k, int groups,
                       const std::string& region) {
             return LrnProblem::make(n, h, w, c, groups, size, alpha, beta, k,
                                     from_name(kRegions, "region", region));
           }),
           "n"_a, "h"_a, "w"_a, "c"_a, "size"_a = 5, "alpha"_a = 1e-4f, "beta"_a = 0.75f, "k"_a = 1.0f,
           "groups"_a = 1, "region"_a = "across_channels")
      .def_readonly("n", &LrnProblem::n)
      .def_readonly("h", &LrnProblem::h)
      .def_readonly("w", &LrnProblem::w)
      .def_readonly("c", &LrnProblem::c)
      .def_readonly("size", &LrnProblem::size)
      .def_readonly("alpha", &LrnProblem::alpha)
      .def_readonly("beta", &LrnProblem::beta)
      .def_readonly("k", &LrnProblem::k)
      .def_readonly("groups", &LrnProblem::groups)
      .def_property_readonly("region", [](const LrnProblem& o) { return to_name(kRegions, o.region); })
      .def_property_readonly("x_shape",
                             [](const LrnProblem& o) { return py::make_tuple(o.n, o.h, o.w, o.c); });

  problem<ContrastNormProblem>(m, "ContrastNormProblem",
                               "x[n,h,w,c]; alpha multiplies the plain sum of squares.")
      .def(py::init(&ContrastNormProblem::make), "n"_a, "h"_a, "w"_a, "c"_a, "size"_a = 5, "alpha"_a = 1e-4f,
           "beta"_a = 0.75f, "k"_a = 1.0f)
      .def_readonly("n", &ContrastNormProblem::n)
      .def_readonly("h", &ContrastNormProblem::h)
      .def_readonly("w", &ContrastNormProblem::w)
      .def_readonly("c", &ContrastNormProblem::c)
      .def_readonly("size", &ContrastNormProblem::size)
      .def_readonly("alpha", &ContrastNormProblem::alpha)
      .def_readonly("beta", &ContrastNormProblem::beta)
      .def_readonly("k", &ContrastNormProblem::k)
      .def_property_readonly("count", &ContrastNormProblem::count)
      .def_property_readonly("x_shape",
                             [](const ContrastNormProblem& o) { return py::make_tuple(o.n, o.h, o.w, o.c); });

  problem<DropoutProblem>(m, "DropoutProblem", "`count` elements, each kept with probability `keep`.")
      .def(py::init(&DropoutProblem::make), "count"_a, "keep"_a, "scale"_a = 1.0f, "seed"_a = 0,
           "subsequence"_a = 0, "columns"_a = 0, "row_stride"_a = 0, "first"_a = 0)
      .def_readonly("count", &DropoutProblem::count)
      .def_readonly("keep", &DropoutProblem::keep)
      .def_readonly("scale", &DropoutProblem::scale)
      .def_readonly("seed", &DropoutProblem::seed)
      .def_readonly("subsequence", &DropoutProblem::subsequence)
      .def_readonly("columns", &DropoutProblem::columns)
      .def_readonly("row_stride", &DropoutProblem::row_stride)
      .def_readonly("first", &DropoutProblem::first)
      .def_property_readonly("threshold", &DropoutProblem::threshold);

  problem<SoftmaxProblem>(m, "SoftmaxProblem", "logits[n,k].")
      .def(py::init(&SoftmaxProblem::make), "n"_a, "k"_a)
      .def_readonly("n", &SoftmaxProblem::n)
      .def_readonly("k", &SoftmaxProblem::k);

  problem<SgdProblem>(m, "SgdProblem", "One parameter tensor's step.")
      .def(py::init(&SgdProblem::make), "count"_a, "lr"_a, "momentum"_a = 0.0f, "weight_decay"_a = 0.0f)
      .def_readonly("count", &SgdProblem::count)
      .def_readonly("lr", &SgdProblem::lr)
      .def_readonly("momentum", &SgdProblem::momentum)
      .def_readonly("weight_decay", &SgdProblem::weight_decay);

  problem<NormLimitProblem>(m, "NormLimitProblem",
                            "w[rows,columns], each row of which has a norm from `low` to `limit`.")
      .def(py::init(&NormLimitProblem::make), "rows"_a, "columns"_a, "limit"_a, "low"_a = 0.0f,
           "centered"_a = false)
      .def_readonly("rows", &NormLimitProblem::rows)
      .def_readonly("columns", &NormLimitProblem::columns)
      .def_readonly("limit", &NormLimitProblem::limit)
      .def_readonly("low", &NormLimitProblem::low)
      .def_readonly("centered", &NormLimitProblem::centered);

  problem<InputProblem>(m, "InputProblem",
                        "images[n,h,w,c] cropped to y[n,p,q,c], or with block > 1 padded and cut into "
                        "y[n,blocks_h,blocks_w,block*block*c].")
      .def(py::init(&InputProblem::make), "n"_a, "h"_a, "w"_a, "c"_a, "p"_a, "q"_a, "center_mean"_a = false,
           "block"_a = 1, "pad"_a = 0)
      .def_readonly("n", &InputProblem::n)
      .def_readonly("h", &InputProblem::h)
      .def_readonly("w", &InputProblem::w)
      .def_readonly("c", &InputProblem::c)
      .def_readonly("p", &InputProblem::p)
      .def_readonly("q", &InputProblem::q)
      .def_readonly("center_mean", &InputProblem::center_mean)
      .def_readonly("block", &InputProblem::block)
      .def_readonly("pad", &InputProblem::pad)
      .def_property_readonly("y_shape", [](const InputProblem& o) {
        return py::make_tuple(o.n, o.blocks_h(), o.blocks_w(), o.block * o.block * o.c);
      });

  problem<FilterBlocksProblem>(m, "FilterBlocksProblem",
                               "w[k,r,s,c] of stride `block` as blocks[k,blocks_r,blocks_s,block*block*c].")
      .def(py::init(&FilterBlocksProblem::make), "k"_a, "r"_a, "s"_a, "c"_a, "block"_a)
      .def_readonly("k", &FilterBlocksProblem::k)
      .def_readonly("r", &FilterBlocksProblem::r)
      .def_readonly("s", &FilterBlocksProblem::s)
      .def_readonly("c", &FilterBlocksProblem::c)
      .def_readonly("block", &FilterBlocksProblem::block)
      .def_property_readonly("w_shape",
                             [](const FilterBlocksProblem& o) { return py::make_tuple(o.k, o.r, o.s, o.c); })
      .def_property_readonly("blocks_shape", [](const FilterBlocksProblem& o) {
        return py::make_tuple(o.k, o.blocks_r(), o.blocks_s(), o.block * o.block * o.c);
      });
}
