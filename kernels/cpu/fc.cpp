// Fully connected layers by oneDNN's matrix product, on the caller's plain weights: a blocked copy of
// AlexNet's fc6 (151 MB) would have to be made anew after every update.
#include "onednn.h"
#include "tables.h"

namespace cconvnet {
namespace {

using dnnl::memory;

// product[rows, columns] = a[rows, depth] b[depth, columns] + bias[columns]; a and b may be transposed in
// memory.

class Product {
 public:
  Product(int rows, int depth, int columns, bool a_transposed, bool b_transposed, bool bias) {
    const memory::desc a = matrix(rows, depth, a_transposed), b = matrix(depth, columns, b_transposed);
    const memory::desc product = matrix(rows, columns, false), row = matrix(1, columns, false);
    dnnl::primitive_attr attributes;
    attributes.set_scratchpad_mode(dnnl::scratchpad_mode::user);
    const dnnl::engine& engine = onednn::engine();
    const dnnl::matmul::primitive_desc desc =
        bias ? dnnl::matmul::primitive_desc(engine, a, b, row, product, attributes)
             : dnnl::matmul::primitive_desc(engine, a, b, product, attributes);
    primitive_ = dnnl::matmul(desc);
    a_ = onednn::no_memory_yet(a);
    b_ = onednn::no_memory_yet(b);
    product_ = onednn::no_memory_yet(product);
    scratchpad_ = onednn::no_memory_yet(desc.scratchpad_desc());
    if (bias) bias_ = onednn::no_memory_yet(row);
  }

  void run(const float* a, const float* b, const float* bias, float* product) {
    onednn::point(a_, a);
    onednn::point(b_, b);
    onednn::point(product_, product);
    onednn::point(scratchpad_, onednn::scratch(scratchpad_.get_desc().get_size()));
    std::unordered_map<int, memory> arguments = {{DNNL_ARG_SRC, a_},
                                                 {DNNL_ARG_WEIGHTS, b_},
                                                 {DNNL_ARG_DST, product_},
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
  static memory::desc matrix(int rows, int columns, bool transposed) {
    using Tag = memory::format_tag;
    return {{rows, columns}, memory::data_type::f32, transposed ? Tag::ba : Tag::ab};
  }

  dnnl::primitive primitive_;
  memory a_, b_, bias_, product_, scratchpad_;
};

enum Pass { kFprop, kDgrad, kWgrad };

template <class Make>
Product& product_for(const ConvProblem& problem, Pass pass, bool bias, const Make& make) {
  static onednn::Cache<Product> cache;
  return cache.get(onednn::key_of(problem, pass, bias), make);
}

void launch_fprop(const ConvProblem& o, const FpropArguments& a, Stream stream) {
  onednn::run("fc_fprop of " + repr(o), [&] {
    product_for(o, kFprop, a.bias != nullptr, [&] {
      return std::make_unique<Product>(o.n, o.c, o.k, false, true, a.bias != nullptr);
    }).run(a.x, a.w, a.bias, a.y);
  });
  if (a.relu) relu_forward(o.y_count(), a.y, a.y, stream);
}

void launch_dgrad(const ConvProblem& o, const DgradArguments& a, Stream) {
  onednn::run("fc_dgrad of " + repr(o), [&] {
    product_for(o, kDgrad, false, [&] {
      return std::make_unique<Product>(o.n, o.k, o.c, false, false, false);
    }).run(a.dy, a.w, nullptr, a.dx);
  });
}

void launch_wgrad(const ConvProblem& o, const WgradArguments& a, Stream) {
  onednn::run("fc_wgrad of " + repr(o), [&] {
    product_for(o, kWgrad, false, [&] {
      return std::make_unique<Product>(o.k, o.n, o.c, true, false, false);
    }).run(a.dy, a.x, nullptr, a.dw);
  });
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
