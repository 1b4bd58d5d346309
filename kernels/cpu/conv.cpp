// Convolution by oneDNN's direct kernels.
//
// Activations stay in plain NHWC, groups and all: on 2 cores of a Zen 5 with AVX-512 (batch 128, 2026-11-20)
// AlexNet's convolutions then run at 390 to 510 GFLOP/s of some 520, and blocked activations, or each group
// as a convolution of its own, were slower even without their reorders. Weights go through the layout that
// the kernel asks for: their reorder takes under 1 ms. The algorithm is never Winograd's, whose rounding is
// not that of a sum of products.
#include "cropped_image.h"
#include "onednn.h"
#include "tables.h"

namespace cconvnet {
namespace {

using dnnl::memory;
using onednn::kDgrad;
using onednn::kFprop;
using onednn::kWgrad;
using onednn::Pass;

memory::desc weights(const ConvProblem& o, memory::data_type type, bool plain) {
  using Tag = memory::format_tag;
  if (o.groups == 1) return {{o.k, o.c, o.r, o.s}, type, plain ? Tag::ohwi : Tag::any};
  return {{o.groups, o.k_per_group(), o.c_per_group(), o.r, o.s}, type, plain ? Tag::gohwi : Tag::any};
}

// One pass of one problem: a primitive with its memory objects.
class Convolution {
 public:
  Convolution(const ConvProblem& o, Pass pass, bool bias) : pass_(pass) {
    const memory::data_type type = onednn::type_of(o), w_type = onednn::weights_type_of(o, pass);
    const memory::desc x({o.n, o.c, o.h, o.w}, type, memory::format_tag::nhwc);
    const memory::desc y({o.n, o.k, o.p, o.q}, type, memory::format_tag::nhwc);
    const memory::desc w = weights(o, w_type, false), forward_w = weights(o, type, false);
    plain_w_ = onednn::no_memory_yet(weights(o, w_type, true));
    const memory::desc b =
        bias ? memory::desc({o.k}, memory::data_type::f32, memory::format_tag::a) : memory::desc();
    const memory::dims stride = {o.stride_h, o.stride_w}, before = {o.pad_h, o.pad_w};
    // oneDNN counts the pixels between two taps.
    const memory::dims dilation = {o.dilation_h - 1, o.dilation_w - 1};
    // What the last window reads beyond the image, negative where pixels are left over.
    const memory::dims after = {(o.p - 1) * o.stride_h + detail::extent(o.r, o.dilation_h) - o.h - o.pad_h,
                                (o.q - 1) * o.stride_w + detail::extent(o.s, o.dilation_w) - o.w - o.pad_w};
    dnnl::primitive_attr attributes;
    attributes.set_scratchpad_mode(dnnl::scratchpad_mode::user);
    const auto direct = dnnl::algorithm::convolution_direct;
    const dnnl::engine& engine = onednn::engine();
    const dnnl::convolution_forward::primitive_desc forward(engine, dnnl::prop_kind::forward_training, direct,
                                                            x, forward_w, b, y, stride, dilation, before,
                                                            after, attributes);
    if (pass == kFprop) {
      prepare(dnnl::convolution_forward(forward), forward.weights_desc(), forward.scratchpad_desc());
    } else if (pass == kDgrad) {
      const dnnl::convolution_backward_data::primitive_desc backward(
          engine, direct, x, w, y, stride, dilation, before, after, forward, attributes);
      prepare(dnnl::convolution_backward_data(backward), backward.weights_desc(), backward.scratchpad_desc());
    } else {
      const dnnl::convolution_backward_weights::primitive_desc backward(
          engine, direct, x, w, y, stride, dilation, before, after, forward, attributes);
      prepare(dnnl::convolution_backward_weights(backward), backward.diff_weights_desc(),
              backward.scratchpad_desc());
    }
    x_ = onednn::no_memory_yet(x);
    y_ = onednn::no_memory_yet(y);
    if (bias) bias_ = onednn::no_memory_yet(b);
  }

  void run(const void* x, const void* w, const float* bias, const void* y) {
    onednn::point(x_, x);
    onednn::point(y_, y);
    onednn::point(plain_w_, w);
    if (bias) onednn::point(bias_, bias);
    char* scratch = static_cast<char*>(onednn::scratch(blocked_bytes_ + scratchpad_.get_desc().get_size()));
    onednn::point(w_, same_layout_ ? w : scratch);
    onednn::point(scratchpad_, scratch + blocked_bytes_);

    dnnl::stream stream(onednn::engine());
    if (pass_ == kFprop) {
      if (!same_layout_) reorder_.execute(stream, plain_w_, w_);
      std::unordered_map<int, memory> arguments = {
          {DNNL_ARG_SRC, x_}, {DNNL_ARG_WEIGHTS, w_}, {DNNL_ARG_DST, y_}, {DNNL_ARG_SCRATCHPAD, scratchpad_}};
      if (bias) arguments.emplace(DNNL_ARG_BIAS, bias_);
      primitive_.execute(stream, arguments);
    } else if (pass_ == kDgrad) {
      if (!same_layout_) reorder_.execute(stream, plain_w_, w_);
      primitive_.execute(stream, {{DNNL_ARG_DIFF_SRC, x_},
                                  {DNNL_ARG_WEIGHTS, w_},
                                  {DNNL_ARG_DIFF_DST, y_},
                                  {DNNL_ARG_SCRATCHPAD, scratchpad_}});
    } else {
      primitive_.execute(stream, {{DNNL_ARG_SRC, x_},
                                  {DNNL_ARG_DIFF_WEIGHTS, w_},
                                  {DNNL_ARG_DIFF_DST, y_},
                                  {DNNL_ARG_SCRATCHPAD, scratchpad_}});
      if (!same_layout_) reorder_.execute(stream, w_, plain_w_);
    }
    stream.wait();
  }

 private:
  void prepare(dnnl::primitive primitive, const memory::desc& w, const memory::desc& scratchpad) {
    primitive_ = std::move(primitive);
    w_ = onednn::no_memory_yet(w);
    scratchpad_ = onednn::no_memory_yet(scratchpad);
    same_layout_ = w == plain_w_.get_desc();
    if (same_layout_) return;
    reorder_ = pass_ == kWgrad ? dnnl::reorder(w_, plain_w_) : dnnl::reorder(plain_w_, w_);
    constexpr size_t kLine = 64;
    blocked_bytes_ = (w.get_size() + kLine - 1) / kLine * kLine;
  }

  Pass pass_;
  dnnl::primitive primitive_;
  memory x_, plain_w_, w_, bias_, y_, scratchpad_;
  bool same_layout_ = false;
  dnnl::reorder reorder_;     // between the caller's weights and the kernel's
  size_t blocked_bytes_ = 0;  // of the kernel's weights, in the scratch buffer
};

// ---- selection tables -----------------------------------------------------------------------------------
// oneDNN serves every problem, so it is the last row of each.

// Whether any of `windows` sees a pixel of the image at a tap `offset` pixels from its begin.
bool seen(int offset, int windows, int stride, int pad, int size) {
  for (int p = 0; p < windows; ++p) {
    const int i = p * stride - pad + offset;
    if (i >= 0 && i < size) return true;
  }
  return false;
}

// Taps that see nothing but padding have no gradient. oneDNN's of bfloat16s leaves there, where rows are
// short, what the scratchpad held.
void clear_unseen_taps(const ConvProblem& o, float* dw) {
  std::vector<char> rows(o.r), columns(o.s);
  for (int r = 0; r < o.r; ++r) rows[r] = seen(r * o.dilation_h, o.p, o.stride_h, o.pad_h, o.h);
  for (int s = 0; s < o.s; ++s) columns[s] = seen(s * o.dilation_w, o.q, o.stride_w, o.pad_w, o.w);
  const int taps = o.r * o.s, channels = o.c_per_group();
  for (int tap = 0; tap < taps; ++tap) {
    if (rows[tap / o.s] && columns[tap % o.s]) continue;
    for (int k = 0; k < o.k; ++k) std::fill_n(dw + (int64_t{k} * taps + tap) * channels, channels, 0.0f);
  }
}

void launch_fprop(const ConvProblem& o, const FpropArguments& a, Stream stream) {
  CroppedImage x(o);
  onednn::run<Convolution>("conv", x.problem(), kFprop, x.of(a.x), a.w, a.finish.bias, a.y);
  finish_after_bias(a.finish, o.precision, o.y_count(), a.y, stream);
}

void launch_dgrad(const ConvProblem& o, const DgradArguments& a, Stream) {
  CroppedImage dx(o);
  onednn::run<Convolution>("conv", dx.problem(), kDgrad, dx.place_in(a.dx), a.w, nullptr, a.dy);
  dx.spread(a.dx);
}

void launch_wgrad(const ConvProblem& o, const WgradArguments& a, Stream stream) {
  ConvProblem same = o;
  // oneDNN multiplies bfloat16s in pairs of pixels. The second of a single column is a stride away, where a
  // long stride finds nothing but what lies behind x or was left in the scratchpad: times 0, but a NaN stays
  // one.
  if (o.precision == Precision::bf16 && o.q == 1) same.stride_w = 1;
  CroppedImage x(same);
  onednn::run<Convolution>("conv", x.problem(), kWgrad, x.of(a.x), a.dw, nullptr, a.dy);
  if (o.precision == Precision::bf16) clear_unseen_taps(o, a.dw);
  if (a.update) sgd_update(*a.update, a.dw, stream);
}

const FpropTable& fprop_table() {
  static const FpropTable table("conv_fprop",
                                {{"onednn", false, always, always, no_workspace, launch_fprop}});
  return table;
}

const DgradTable& dgrad_table() {
  static const DgradTable table("conv_dgrad",
                                {{"onednn", false, always, always, no_workspace, launch_dgrad}});
  return table;
}

const WgradTable& wgrad_table() {
  static const WgradTable table(
      "conv_wgrad",
      {few_channels_wgrad_row(), {"onednn", false, always, always, no_workspace, launch_wgrad}});
  return table;
}

}  // namespace

CCONVNET_FPROP(conv, ConvProblem, fprop_table(), problem)
CCONVNET_DGRAD(conv, ConvProblem, dgrad_table(), problem)
CCONVNET_WGRAD(conv, ConvProblem, wgrad_table(), problem)

}  // namespace cconvnet
