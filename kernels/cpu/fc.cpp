// Fully connected layers by oneDNN's matrix product, on the caller's plain weights. A blocked copy of
// AlexNet's fc6 (151 MB) would have to be made again after every update.
//
// Threads share slices of the result's columns (of dw's rows). Each slice is a product computed by one
// thread.
//
// oneDNN's product of bfloat16s takes a transposed first matrix by its old kernels, without AMX. So wgrad
// transposes dy itself: fc6 of AlexNet, batch 128, then takes 16 ms, not 58 (2 cores of an Emerald Rapids
// Xeon, 2026-11-29). In floats the two did not differ beyond their spread.
#include <algorithm>

#include "onednn.h"
#include "tables.h"

namespace cconvnet {
namespace {

using dnnl::memory;
using onednn::kDgrad;
using onednn::kFprop;
using onednn::kWgrad;
using onednn::Pass;

// A matrix whose rows are `stride` elements apart.
memory::desc matrix(int rows, int columns, memory::data_type type, int stride) {
  return {{rows, columns}, type, memory::dims{stride, 1}};
}

memory::desc transposed(int rows, int columns, memory::data_type type, int stride) {
  return {{rows, columns}, type, memory::dims{1, stride}};
}

// A slice's width, which depends on the problem alone. Wide slices are faster, and many slices keep many
// cores busy. On 2 cores of a Zen 5 with AVX-512 (AlexNet's fc6, batch 128, 2026-11-28) slices of 512 cost 4
// to 11% of a pass, and slices of 256 about 15%.
int slice_width(int width) {
  constexpr int kSlices = 8, kVector = 64;
  const int even = detail::ceil_div(detail::ceil_div(width, kSlices), kVector) * kVector;
  return std::min(width, std::clamp(even, 128, 512));
}

// One pass of one problem: y[N,K] = x w^T, dx[N,C] = dy w or dw[K,C] = dy^T x. The slices are of K, in dgrad
// of C.
class FullyConnected {
 public:
  FullyConnected(const ConvProblem& problem, Pass pass, bool bias)
      : pass_(pass),
        cut_(pass == kDgrad ? problem.c : problem.k),
        width_(slice_width(cut_)),
        type_bytes_(problem.precision == Precision::bf16 ? sizeof(bfloat16) : sizeof(float)),
        row_(problem.c),
        n_(problem.n),
        transposes_(pass == kWgrad && problem.precision == Precision::bf16),
        full_(primitive_of(problem, width_, pass, bias)) {
    if (const int rest = cut_ % width_) rest_ = primitive_of(problem, rest, pass, bias);
    scratchpad_bytes_ = full_.scratchpad.get_size();
    if (rest_.primitive) scratchpad_bytes_ = std::max(scratchpad_bytes_, rest_.scratchpad.get_size());
    if (!transposes_) return;
    const memory::data_type type = onednn::type_of(problem);
    const memory::desc plain = matrix(problem.k, problem.n, type, problem.n);
    transposition_ = onednn::Reorder(transposed(problem.k, problem.n, type, problem.k), plain);
    transposed_bytes_ = onednn::whole_lines(plain.get_size());
  }

  void run(const void* x, const void* w, const float* bias, const void* y) {
    const int slices = detail::ceil_div(cut_, width_);
    const size_t scratchpads_bytes = onednn::whole_lines(scratchpad_bytes_) * slice_threads(slices);
    char* const own_dy = static_cast<char*>(onednn::scratch(transposed_bytes_ + scratchpads_bytes));
    char* const scratchpads = own_dy + transposed_bytes_;
    if (transposes_) transposition_.run(y, own_dy);
    const void* const dy = transposes_ ? own_dy : y;
    const size_t dy_step = transposes_ ? n_ : 1;  // from one of its columns to the next
    const auto at = [](const void* array, size_t bytes) { return static_cast<const char*>(array) + bytes; };
    onednn::run_slices(slices, scratchpad_bytes_, scratchpads, [&](int slice, char* scratchpad) {
      const onednn::SlicePrimitive& primitive = slice == slices - 1 && rest_.primitive ? rest_ : full_;
      const size_t first = size_t(slice) * width_;
      if (pass_ == kFprop) {
        primitive.run({{DNNL_ARG_SRC, x},
                       {DNNL_ARG_WEIGHTS, at(w, first * row_ * type_bytes_)},
                       {DNNL_ARG_BIAS, bias ? bias + first : nullptr},
                       {DNNL_ARG_DST, at(y, first * type_bytes_)}},
                      scratchpad);
      } else if (pass_ == kDgrad) {
        primitive.run({{DNNL_ARG_SRC, y},
                       {DNNL_ARG_WEIGHTS, at(w, first * type_bytes_)},
                       {DNNL_ARG_DST, at(x, first * type_bytes_)}},
                      scratchpad);
      } else {
        primitive.run({{DNNL_ARG_SRC, at(dy, first * dy_step * type_bytes_)},
                       {DNNL_ARG_WEIGHTS, x},
                       {DNNL_ARG_DST, at(w, first * row_ * sizeof(float))}},
                      scratchpad);
      }
    });
  }

 private:
  onednn::SlicePrimitive primitive_of(const ConvProblem& problem, int width, Pass pass, bool bias) const {
    const Team alone(1);
    const memory::data_type type = onednn::type_of(problem), f32 = memory::data_type::f32;
    memory::desc a, b, result, sum;
    if (pass == kFprop) {
      a = matrix(problem.n, problem.c, type, problem.c);
      b = transposed(problem.c, width, type, problem.c);
      result = matrix(problem.n, width, type, problem.k);
    } else if (pass == kDgrad) {
      a = matrix(problem.n, problem.k, type, problem.k);
      b = matrix(problem.k, width, type, problem.c);
      result = matrix(problem.n, width, type, problem.c);
    } else {
      a = transposes_ ? matrix(width, problem.n, type, problem.n)
                      : transposed(width, problem.n, type, problem.k);
      b = matrix(problem.n, problem.c, type, problem.c);
      result = matrix(width, problem.c, f32, problem.c);
    }
    if (bias) sum = matrix(1, width, f32, width);
    dnnl::primitive_attr attributes;
    attributes.set_scratchpad_mode(dnnl::scratchpad_mode::user);
    const dnnl::matmul::primitive_desc desc =
        bias ? dnnl::matmul::primitive_desc(onednn::engine(), a, b, sum, result, attributes)
             : dnnl::matmul::primitive_desc(onednn::engine(), a, b, result, attributes);
    return {dnnl::matmul(desc),
            {{DNNL_ARG_SRC, a}, {DNNL_ARG_WEIGHTS, b}, {DNNL_ARG_BIAS, sum}, {DNNL_ARG_DST, result}},
            desc.scratchpad_desc()};
  }

  Pass pass_;
  int cut_, width_;  // of the result: its width, and a slice's
  size_t type_bytes_, row_, n_;
  bool transposes_;  // dy
  onednn::Reorder transposition_;
  size_t transposed_bytes_ = 0;
  onednn::SlicePrimitive full_, rest_;
  size_t scratchpad_bytes_;
};

void launch_fprop(const ConvProblem& problem, const FpropArguments& args, Stream stream) {
  onednn::run<FullyConnected>("fc", problem, kFprop, args.x, args.w, args.epilogue.bias, args.y);
  apply_after_bias(args.epilogue, problem.precision, problem.y_count(), args.y, stream);
}

void launch_dgrad(const ConvProblem& problem, const DgradArguments& args, Stream stream) {
  onednn::run<FullyConnected>("fc", problem, kDgrad, args.dx, args.w, nullptr, args.dy);
  apply(args.epilogue, problem.precision, pixels_of(problem), args.dx, args.sums, stream);
}

void launch_wgrad(const ConvProblem& problem, const WgradArguments& args, Stream stream) {
  onednn::run<FullyConnected>("fc", problem, kWgrad, args.x, args.dw, nullptr, args.dy);
  if (args.update) sgd_update(*args.update, args.dw, stream);
}

const FpropTable& fprop_table() {
  static const FpropTable table("fc_fprop", {{"onednn", false, always, always, no_workspace, launch_fprop}});
  return table;
}

const DgradTable& dgrad_table() {
  static const DgradTable table("fc_dgrad", {{"onednn", false, always, always, no_workspace, launch_dgrad}});
  return table;
}

const WgradTable& wgrad_table() {
  static const WgradTable table("fc_wgrad", {{"onednn", false, always, always, no_workspace, launch_wgrad}});
  return table;
}

}  // namespace

CCONVNET_FPROP(fc, FcProblem, fprop_table(), problem.as_conv())
CCONVNET_DGRAD(fc, FcProblem, dgrad_table(), problem.as_conv())
CCONVNET_WGRAD(fc, FcProblem, wgrad_table(), problem.as_conv())

}  // namespace cconvnet
