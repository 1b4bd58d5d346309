// cconvnet._problem: the structs of kernels/problem.h as Python types, shared by every compiled module.
#include <pybind11/operators.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <array>
#include <functional>
#include <optional>
#include <string>
#include <tuple>
#include <utility>
#include <variant>
#include <vector>

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

// A problem's Python type. The text contains all of a problem, so equality and hash may rest on it.
template <class Problem>
struct ProblemType : py::class_<Problem> {
  ProblemType(py::module_& m, const char* name, const char* doc) : py::class_<Problem>(m, name, doc) {
    this->def("__repr__", [](const Problem& problem) { return repr(problem); })
        .def(
            "__eq__", [](const Problem& one, const Problem& other) { return repr(one) == repr(other); },
            py::is_operator())
        .def("__hash__", [](const Problem& problem) { return py::hash(py::str(repr(problem))); });
  }

  // `make` returns the problem of these arguments.
  template <class Make, class... Arguments>
  ProblemType& made_by(Make make, const Arguments&... arguments) {
    this->def(py::init(make), arguments...);
    return *this;
  }

  // Members of the problem, or functions of it, each after its name.
  template <class Field, class... Others>
  ProblemType& fields(const char* name, Field field, Others... others) {
    this->def_property_readonly(name,
                                [field](const Problem& problem) { return std::invoke(field, problem); });
    if constexpr (sizeof...(Others) > 0) fields(others...);
    return *this;
  }
};

// The shape[n,h,w,c] of a problem's images.
template <class Problem>
auto image_shape(const Problem& problem) {
  return std::make_tuple(problem.n, problem.h, problem.w, problem.c);
}

// The type of a convolution or of a locally connected layer, which differ only in their filters.
template <class Problem, class Make>
ProblemType<Problem> windows_problem(py::module_& m, const char* name, const char* doc, const Make& make) {
  return ProblemType<Problem>(m, name, doc)
      .made_by(
          [make](int n, int h, int w, int c, int k, int r, int s, Pair stride, PaddingPair padding,
                 int groups, const std::string& rounding, const std::string& precision,
                 std::optional<Pair> outputs, Pair dilation) {
            const auto [p, q] = counts_of(outputs);
            return make(ConvProblem::make(
                n, h, w, c, k, r, s, stride[0], stride[1], padding_of(padding[0]), padding_of(padding[1]),
                groups, from_name(kRoundings, "rounding", rounding),
                from_name(kPrecisions, "precision", precision), dilation[0], dilation[1], p, q));
          },
          "n"_a, "h"_a, "w"_a, "c"_a, "k"_a, "r"_a, "s"_a, "stride"_a = Pair{1, 1}, "padding"_a = Pair{0, 0},
          "groups"_a = 1, "rounding"_a = "floor", "precision"_a = "fp32", "outputs"_a = py::none(),
          "dilation"_a = Pair{1, 1})
      .fields("n", &Problem::n, "h", &Problem::h, "w", &Problem::w, "c", &Problem::c, "k", &Problem::k, "r",
              &Problem::r, "s", &Problem::s, "p", &Problem::p, "q", &Problem::q, "stride_h",
              &Problem::stride_h, "stride_w", &Problem::stride_w, "pad_h", &Problem::pad_h, "pad_w",
              &Problem::pad_w, "groups", &Problem::groups, "dilation_h", &Problem::dilation_h, "dilation_w",
              &Problem::dilation_w)
      .fields("precision", [](const Problem& problem) { return to_name(kPrecisions, problem.precision); })
      .fields("x_shape", image_shape<Problem>)
      .fields(
          "y_shape",
          [](const Problem& problem) { return std::make_tuple(problem.n, problem.p, problem.q, problem.k); })
      .fields("flops", [](const Problem& problem) { return problem.flops(); });
}

}  // namespace

PYBIND11_MODULE(_problem, m) {
  m.doc() = "Problems: the shapes and parameters of every operation, as kernels/problem.h computes them.";

  windows_problem<ConvProblem>(
      m, "ConvProblem",
      "A convolution of x[n,h,w,c] with filters w[k,r,s,c/groups], which gives y[n,p,q,k].\n\n"
      "Stride, padding and dilation are (vertical, horizontal); padding may hold a pair (before, after) for "
      "an "
      "axis. `outputs` (p, q) takes the place of rounding and of the padding behind the image.",
      [](const ConvProblem& windows) { return windows; })
      .fields("w_shape",
              [](const ConvProblem& problem) {
                return std::make_tuple(problem.k, problem.r, problem.s, problem.c_per_group());
              })
      .fields("y_pitch", &ConvProblem::y_pitch, "y_first", &ConvProblem::y_first)
      .def("placed", &ConvProblem::placed, "pitch"_a, "first"_a,
           "Return the convolution with y in channels of y[n,p,q,pitch], from `first` on.");

  windows_problem<LocalProblem>(
      m, "LocalProblem",
      "A convolution with filters w[p,q,k,r,s,c/groups] and biases bias[p,q,k] for every position.",
      &LocalProblem::make)
      .fields("w_shape",
              [](const LocalProblem& problem) {
                return std::make_tuple(problem.p, problem.q, problem.k, problem.r, problem.s,
                                       problem.c_per_group());
              })
      .fields("bias_shape",
              [](const LocalProblem& problem) { return std::make_tuple(problem.p, problem.q, problem.k); });

  ProblemType<FcProblem>(m, "FcProblem",
                         "A fully connected layer, y[n,k] = x[n,c] times the transpose of w[k,c].")
      .made_by(
          [](int n, int c, int k, const std::string& precision) {
            return FcProblem::make(n, c, k, from_name(kPrecisions, "precision", precision));
          },
          "n"_a, "c"_a, "k"_a, "precision"_a = "fp32")
      .fields("n", &FcProblem::n, "c", &FcProblem::c, "k", &FcProblem::k, "precision",
              [](const FcProblem& problem) { return to_name(kPrecisions, problem.precision); })
      .fields("x_shape", [](const FcProblem& problem) { return std::make_tuple(problem.n, problem.c); })
      .fields("w_shape", [](const FcProblem& problem) { return std::make_tuple(problem.k, problem.c); })
      .fields("y_shape", [](const FcProblem& problem) { return std::make_tuple(problem.n, problem.k); })
      .fields("flops", &FcProblem::flops);

  ProblemType<BiasProblem>(m, "BiasProblem", "A bias[k] of each row of x, y and dy[rows,k].")
      .made_by(&BiasProblem::make, "rows"_a, "k"_a)
      .fields("rows", &BiasProblem::rows, "k", &BiasProblem::k, "pitch", &BiasProblem::pitch, "first",
              &BiasProblem::first)
      .def("placed", &BiasProblem::placed, "pitch"_a, "first"_a,
           "Return the problem with y and dy in columns of matrices[rows,pitch], from `first` on.");

  ProblemType<NeuronProblem>(m, "NeuronProblem",
                             "An elementwise function of `count` numbers, with its parameters a and b.")
      .made_by(
          [](int count, const std::string& neuron, float a, float b) {
            return NeuronProblem::make(count, from_name(kNeurons, "neuron", neuron), a, b);
          },
          "count"_a, "neuron"_a = "relu", "a"_a = 1.0f, "b"_a = 0.0f)
      .fields(
          "count", &NeuronProblem::count, "neuron",
          [](const NeuronProblem& problem) { return to_name(kNeurons, problem.neuron); }, "a",
          &NeuronProblem::a, "b", &NeuronProblem::b);

  ProblemType<PoolProblem>(m, "PoolProblem",
                           "Pooling of x[n,h,w,c] to y[n,p,q,c].\n\n"
                           "Pairs are (vertical, horizontal); padding may hold a pair (before, after) for an "
                           "axis. `outputs` (p, q) "
                           "takes the place of rounding.")
      .made_by(
          [](int n, int h, int w, int c, Pair window, Pair stride, PaddingPair padding,
             const std::string& rounding, std::optional<Pair> outputs, bool count_padding) {
            const auto [p, q] = counts_of(outputs);
            return PoolProblem::make(n, h, w, c, window[0], window[1], stride[0], stride[1],
                                     padding_of(padding[0]), padding_of(padding[1]),
                                     from_name(kRoundings, "rounding", rounding), p, q, count_padding);
          },
          "n"_a, "h"_a, "w"_a, "c"_a, "window"_a = Pair{3, 3}, "stride"_a = Pair{2, 2},
          "padding"_a = Pair{0, 0}, "rounding"_a = "floor", "outputs"_a = py::none(),
          "count_padding"_a = false)
      .fields("n", &PoolProblem::n, "h", &PoolProblem::h, "w", &PoolProblem::w, "c", &PoolProblem::c, "p",
              &PoolProblem::p, "q", &PoolProblem::q, "window_h", &PoolProblem::window_h, "window_w",
              &PoolProblem::window_w, "stride_h", &PoolProblem::stride_h, "stride_w", &PoolProblem::stride_w,
              "pad_h", &PoolProblem::pad_h, "pad_w", &PoolProblem::pad_w, "pad_bottom",
              &PoolProblem::pad_bottom, "pad_right", &PoolProblem::pad_right, "count_padding",
              &PoolProblem::count_padding)
      .fields("x_shape", image_shape<PoolProblem>)
      .fields("y_shape", [](const PoolProblem& problem) {
        return std::make_tuple(problem.n, problem.p, problem.q, problem.c);
      });

  ProblemType<LrnProblem>(m, "LrnProblem",
                          "Response normalisation of x[n,h,w,c]; alpha multiplies the plain sum of squares.")
      .made_by(
          [](int n, int h, int w, int c, int size, float alpha, float beta, float k, int groups,
             const std::string& region) {
            return LrnProblem::make(n, h, w, c, groups, size, alpha, beta, k,
                                    from_name(kRegions, "region", region));
          },
          "n"_a, "h"_a, "w"_a, "c"_a, "size"_a = 5, "alpha"_a = 1e-4f, "beta"_a = 0.75f, "k"_a = 1.0f,
          "groups"_a = 1, "region"_a = "across_channels")
      .fields("n", &LrnProblem::n, "h", &LrnProblem::h, "w", &LrnProblem::w, "c", &LrnProblem::c, "size",
              &LrnProblem::size, "alpha", &LrnProblem::alpha, "beta", &LrnProblem::beta, "k", &LrnProblem::k,
              "groups", &LrnProblem::groups, "region",
              [](const LrnProblem& problem) { return to_name(kRegions, problem.region); })
      .fields("x_shape", image_shape<LrnProblem>);

  ProblemType<ContrastNormProblem>(
      m, "ContrastNormProblem",
      "Contrast normalisation of x[n,h,w,c]; alpha multiplies the plain sum of squares.")
      .made_by(&ContrastNormProblem::make, "n"_a, "h"_a, "w"_a, "c"_a, "size"_a = 5, "alpha"_a = 1e-4f,
               "beta"_a = 0.75f, "k"_a = 1.0f)
      .fields("n", &ContrastNormProblem::n, "h", &ContrastNormProblem::h, "w", &ContrastNormProblem::w, "c",
              &ContrastNormProblem::c, "size", &ContrastNormProblem::size, "alpha",
              &ContrastNormProblem::alpha, "beta", &ContrastNormProblem::beta, "k", &ContrastNormProblem::k)
      .fields("count", &ContrastNormProblem::count)
      .fields("x_shape", image_shape<ContrastNormProblem>);

  ProblemType<BatchNormProblem>(
      m, "BatchNormProblem",
      "Batch normalisation of the columns of x[rows,k], of which the first `counted` rows count.")
      .made_by(&BatchNormProblem::make, "rows"_a, "k"_a, "counted"_a = 0, "eps"_a = 1e-5f)
      .fields("rows", &BatchNormProblem::rows, "k", &BatchNormProblem::k, "counted",
              &BatchNormProblem::counted, "eps", &BatchNormProblem::eps);

  ProblemType<DropoutProblem>(m, "DropoutProblem",
                              "Dropout of `count` elements, each kept with probability `keep`.")
      .made_by(&DropoutProblem::make, "count"_a, "keep"_a, "scale"_a = 1.0f, "seed"_a = 0,
               "subsequence"_a = 0, "columns"_a = 0, "row_stride"_a = 0, "first"_a = 0, "first_row"_a = 0)
      .fields("count", &DropoutProblem::count, "keep", &DropoutProblem::keep, "scale", &DropoutProblem::scale,
              "seed", &DropoutProblem::seed, "subsequence", &DropoutProblem::subsequence, "columns",
              &DropoutProblem::columns, "row_stride", &DropoutProblem::row_stride, "first",
              &DropoutProblem::first, "first_row", &DropoutProblem::first_row)
      .fields("threshold", &DropoutProblem::threshold);

  ProblemType<SoftmaxProblem>(m, "SoftmaxProblem",
                              "Softmax of each row of logits[n,k]; rows with the label `ignore` count for "
                              "nothing.")
      .made_by(
          [](int n, int k, std::optional<int> ignore, float smoothing) {
            return SoftmaxProblem::make(n, k, ignore.has_value(), ignore.value_or(0), smoothing);
          },
          "n"_a, "k"_a, "ignore"_a = py::none(), "smoothing"_a = 0.0f)
      .fields("n", &SoftmaxProblem::n, "k", &SoftmaxProblem::k, "smoothing", &SoftmaxProblem::smoothing)
      .fields("ignore", [](const SoftmaxProblem& problem) {
        return problem.ignores ? std::optional<int>(problem.ignore) : std::nullopt;
      });

  ProblemType<L2CostProblem>(m, "L2CostProblem",
                             "The squared distance of each row of x[n,k] from its target.")
      .made_by(&L2CostProblem::make, "n"_a, "k"_a)
      .fields("n", &L2CostProblem::n, "k", &L2CostProblem::k);

  ProblemType<SgdProblem>(m, "SgdProblem", "One update of a tensor of `count` parameters.")
      .made_by(&SgdProblem::make, "count"_a, "lr"_a, "momentum"_a = 0.0f, "weight_decay"_a = 0.0f,
               "nesterov"_a = false)
      .fields("count", &SgdProblem::count, "lr", &SgdProblem::lr, "momentum", &SgdProblem::momentum,
              "weight_decay", &SgdProblem::weight_decay, "nesterov", &SgdProblem::nesterov);

  ProblemType<LarsProblem>(
      m, "LarsProblem", "The rate of a tensor of `count` parameters by the norms of them and their gradient.")
      .made_by(&LarsProblem::make, "count"_a, "eta"_a, "weight_decay"_a = 0.0f, "eps"_a = 0.0f)
      .fields("count", &LarsProblem::count, "eta", &LarsProblem::eta, "weight_decay",
              &LarsProblem::weight_decay, "eps", &LarsProblem::eps);

  ProblemType<NormLimitProblem>(m, "NormLimitProblem",
                                "Limits, from `low` to `limit`, to the norm of each row of w[rows,columns].")
      .made_by(&NormLimitProblem::make, "rows"_a, "columns"_a, "limit"_a, "low"_a = 0.0f,
               "centered"_a = false)
      .fields("rows", &NormLimitProblem::rows, "columns", &NormLimitProblem::columns, "limit",
              &NormLimitProblem::limit, "low", &NormLimitProblem::low, "centered",
              &NormLimitProblem::centered);

  ProblemType<TreeSumProblem>(
      m, "TreeSumProblem",
      "The sum of the rows of x[parts,count], times `scale`.\n\n"
      "After part i is pushed on a stack, the two topmost sums are added merges[i] times.")
      .made_by(&TreeSumProblem::make, "count"_a, "merges"_a, "scale"_a = 1.0f)
      .fields("count", &TreeSumProblem::count, "parts", &TreeSumProblem::parts, "merges",
              &TreeSumProblem::merges_of_parts, "scale", &TreeSumProblem::scale);

  ProblemType<InputProblem>(
      m, "InputProblem",
      "Crops y[n,p,q,c] of images[n,h,w,c] within `margin` zeros.\n\n"
      "With block > 1 they are padded and cut into y[n,blocks_h,blocks_w,block*block*c].")
      .made_by(&InputProblem::make, "n"_a, "h"_a, "w"_a, "c"_a, "p"_a, "q"_a, "center_mean"_a = false,
               "block"_a = 1, "pad"_a = 0, "margin"_a = 0)
      .fields("n", &InputProblem::n, "h", &InputProblem::h, "w", &InputProblem::w, "c", &InputProblem::c, "p",
              &InputProblem::p, "q", &InputProblem::q, "center_mean", &InputProblem::center_mean, "block",
              &InputProblem::block, "pad", &InputProblem::pad, "margin", &InputProblem::margin)
      .fields("y_shape", [](const InputProblem& problem) {
        return std::make_tuple(problem.n, problem.blocks_h(), problem.blocks_w(),
                               problem.block * problem.block * problem.c);
      });

  ProblemType<FilterBlocksProblem>(
      m, "FilterBlocksProblem",
      "Filters w[k,r,s,c] of stride `block` as blocks[k,blocks_r,blocks_s,block*block*c].")
      .made_by(&FilterBlocksProblem::make, "k"_a, "r"_a, "s"_a, "c"_a, "block"_a)
      .fields("k", &FilterBlocksProblem::k, "r", &FilterBlocksProblem::r, "s", &FilterBlocksProblem::s, "c",
              &FilterBlocksProblem::c, "block", &FilterBlocksProblem::block)
      .fields("w_shape",
              [](const FilterBlocksProblem& problem) {
                return std::make_tuple(problem.k, problem.r, problem.s, problem.c);
              })
      .fields("blocks_shape", [](const FilterBlocksProblem& problem) {
        return std::make_tuple(problem.k, problem.blocks_r(), problem.blocks_s(),
                               problem.block * problem.block * problem.c);
      });
}
