// Fully connected layers by oneDNN, on the caller's plain weights: a blocked copy of AlexNet's fc6 (151 MB)
// would have to be made anew after every update.
//
// Each pass takes the primitive that is faster on such weights: the matrix product forward, the inner product
// backward. On 2 cores of a Zen 5 with AVX-512 (AlexNet's fc6, batch 128, 2026-11-21) it was 24 ms and 56 ms
// forward, 41 and 22 for dgrad, 30 and 20 for wgrad.
#include "onednn.h"
#include "tables.h"

namespace cconvnet {
namespace {

using dnnl::memory;
using onednn::kDgrad;
using onednn::kFprop;
using onednn::kWgrad;
using onednn::Pass;

memory::desc matrix(int rows, int columns, memory::data_type type, bool transposed = false) {
  using Tag = memory::format_tag;
  return {{rows, columns}, type, transposed ? Tag::ba : Tag::ab};
}

// One pass of one problem: a primitive with its memory objects.
class FullyConnected {
 public:
  FullyConnected(const ConvProblem& o, Pass pass, bool bias) : pass_(pass) {
    const memory::data_type type = onednn::type_of(o), w_type = onednn::weights_type_of(o, pass);
    const memory::desc x = matrix(o.n, o.c, type), y = matrix(o.n, o.k, type);
    const memory::desc b = matrix(1, o.k, memory::data_type::f32);
    memory::desc w = matrix(o.k, o.c, w_type);
    dnnl::primitive_attr attributes;
    attributes.set_scratchpad_mode(dnnl::scratchpad_mode::user);
    const dnnl::engine& engine = onednn::engine();
    if (pass == kFprop) {
      w = matrix(o.c, o.k, type, true);
      const dnnl::matmul::primitive_desc desc =
          bias ? dnnl::matmul::primitive_desc(engine, x, w, b, y, attributes)
               : dnnl::matmul::primitive_desc(engine, x, w, y, attributes);
      primitive_ = dnnl::matmul(desc);
      scratchpad_ = onednn::no_memory_yet(desc.scratchpad_desc());
    } else {
      const dnnl::inner_product_forward::primitive_desc forward(engine, dnnl::prop_kind::forward_training, x,
                                                                matrix(o.k, o.c, type), y, attributes);
      if (pass == kDgrad) {
        const dnnl::inner_product_backward_data::primitive_desc desc(engine, x, w, y, forward, attributes);
        primitive_ = dnnl::inner_product_backward_data(desc);
        scratchpad_ = onednn::no_memory_yet(desc.scratchpad_desc());
      } else {
        const dnnl::inner_product_backward_weights::primitive_desc desc(engine, x, w, y, forward, attributes);
        primitive_ = dnnl::inner_product_backward_weights(desc);
        scratchpad_ = onednn::no_memory_yet(desc.scratchpad_desc());
      }
    }
    x_ = onednn::no_memory_yet(x);
    w_ = onednn::no_memory_yet(w);
    y_ = onednn::no_memory_yet(y);
    if (bias) bias_ = onednn::no_memory_yet(b);
  }

  void run(const void* x, const void* w, const float* bias, const void* y) {
    onednn::point(x_, x);
    onednn::point(w_, w);
    onednn::point(y_, y);
    onednn::point(scratchpad_, onednn::scratch(scratchpad_.get_desc().get_size()));
    const bool dgrad = pass_ == kDgrad, wgrad = pass_ == kWgrad;
    std::unordered_map<int, memory> arguments = {{dgrad ? DNNL_ARG_DIFF_SRC : DNNL_ARG_SRC, x_},
                                                 {wgrad ? DNNL_ARG_DIFF_WEIGHTS : DNNL_ARG_WEIGHTS, w_},
                                                 {pass_ == kFprop ? DNNL_ARG_DST : DNNL_ARG_DIFF_DST, y_},
                                                 {DNNL_ARG_SCRATCHPAD, scratchpad_}};
    if (bias) {
      onednn::point(bias_, bias);
      arguments.emplace(DNNL_ARG_BIAS, bias_);
    }
    dnnl::stream stream(onednn::engine());
    primitive_.execute(stream, arguments);
    stream.wait();
  }

 private:
  Pass pass_;
  dnnl::primitive primitive_;
  memory x_, w_, bias_, y_, scratchpad_;
};

void launch_fprop(const ConvProblem& o, const FpropArguments& a, Stream stream) {
  onednn::run<FullyConnected>("fc", o, kFprop, a.x, a.w, a.finish.bias, a.y);
  finish_after_bias(a.finish, o.precision, o.y_count(), a.y, stream);
}

void launch_dgrad(const ConvProblem& o, const DgradArguments& a, Stream) {
  onednn::run<FullyConnected>("fc", o, kDgrad, a.dx, a.w, nullptr, a.dy);
}

void launch_wgrad(const ConvProblem& o, const WgradArguments& a, Stream stream) {
  onednn::run<FullyConnected>("fc", o, kWgrad, a.x, a.dw, nullptr, a.dy);
  if (a.update) sgd_update(*a.update, a.dw, stream);
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
