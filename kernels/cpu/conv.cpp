// Convolution by oneDNN's direct kernels.
//
// Activations stay in plain NHWC, also with groups. On 2 cores of a Zen 5 with AVX-512 (batch 128,
// 2026-11-20) AlexNet's convolutions then run at 390 to 510 GFLOP/s, of about 520 possible. Blocked
// activations, or each group as a convolution of its own, were slower even without their reorders. Weights
// are reordered to the layout that the kernel wants, which takes under 1 ms. The algorithm is never oneDNN's
// own choice of Winograd's, which has a row to itself (conv_winograd.cpp).
#include "cropped_image.h"
#include "onednn.h"
#include "placed.h"
#include "tables.h"

namespace cconvnet {
namespace {

using dnnl::memory;
using onednn::kDgrad;
using onednn::kFprop;
using onednn::kWgrad;
using onednn::Pass;

memory::desc weights(const ConvProblem& problem, memory::data_type type, bool plain) {
  using Tag = memory::format_tag;
  if (problem.groups == 1)
    return {{problem.k, problem.c, problem.r, problem.s}, type, plain ? Tag::ohwi : Tag::any};
  return {{problem.groups, problem.k_per_group(), problem.c_per_group(), problem.r, problem.s},
          type,
          plain ? Tag::gohwi : Tag::any};
}

// The division of a batch's images into slices. It depends on the problem alone.
struct Slices {
  int images;  // of a slice; the last one may have fewer
  int count;

  Slices(const ConvProblem& problem, Pass pass) {
    // A slice takes some microseconds at least; otherwise starting it would take longer than its work.
    constexpr int64_t kMinSliceFlops = 4'000'000;
    const int64_t of_image = std::max<int64_t>(1, problem.flops() / problem.n);
    const int64_t least = std::min<int64_t>(problem.n, detail::ceil_div(kMinSliceFlops, of_image));
    int64_t wanted;
    if (pass == kWgrad) {
      // Every slice has its own sum of the weights' size, which costs memory and the time to add it.
      constexpr int64_t kMaxFloats = 32 << 20;
      const int64_t sums = std::min<int64_t>(kMaxSums, std::max<int64_t>(4, kMaxFloats / problem.w_count()));
      wanted = detail::ceil_div(int64_t{problem.n}, sums);
    } else {
      wanted = std::min(4, problem.n / 32);
    }
    images = static_cast<int>(std::max<int64_t>({1, least, wanted}));
    count = static_cast<int>(detail::ceil_div(problem.n, images));
  }

  static constexpr int kMaxSums = 16;

  int first(int slice) const { return slice * images; }
};

// One pass over some images, its weights in the layout that the kernel asks for or in a given one.
onednn::SlicePrimitive primitive_of(const ConvProblem& problem, int images, Pass pass, bool bias,
                                    const memory::desc& w) {
  const Team alone(1);
  const memory::data_type type = onednn::type_of(problem);
  const memory::desc x({images, problem.c, problem.h, problem.w}, type, memory::format_tag::nhwc);
  const memory::desc y({images, problem.k, problem.p, problem.q}, type, memory::format_tag::nhwc);
  const memory::desc b =
      bias ? memory::desc({problem.k}, memory::data_type::f32, memory::format_tag::a) : memory::desc();
  const memory::dims stride = {problem.stride_h, problem.stride_w}, before = {problem.pad_h, problem.pad_w};
  // oneDNN counts the pixels between two taps.
  const memory::dims dilation = {problem.dilation_h - 1, problem.dilation_w - 1};
  // The pixels that the last window reads beyond the image; negative where pixels are left over.
  const memory::dims after = {(problem.p - 1) * problem.stride_h +
                                  detail::extent(problem.r, problem.dilation_h) - problem.h - problem.pad_h,
                              (problem.q - 1) * problem.stride_w +
                                  detail::extent(problem.s, problem.dilation_w) - problem.w - problem.pad_w};
  dnnl::primitive_attr attributes;
  attributes.set_scratchpad_mode(dnnl::scratchpad_mode::user);
  const auto direct = dnnl::algorithm::convolution_direct;
  const dnnl::engine& engine = onednn::engine();
  const dnnl::convolution_forward::primitive_desc forward(
      engine, dnnl::prop_kind::forward_training, direct, x,
      pass == kFprop ? w : weights(problem, type, false), b, y, stride, dilation, before, after, attributes);
  if (pass == kFprop) {
    return {dnnl::convolution_forward(forward),
            {{DNNL_ARG_SRC, x},
             {DNNL_ARG_WEIGHTS, forward.weights_desc()},
             {DNNL_ARG_BIAS, b},
             {DNNL_ARG_DST, y}},
            forward.scratchpad_desc()};
  }
  if (pass == kDgrad) {
    const dnnl::convolution_backward_data::primitive_desc backward(engine, direct, x, w, y, stride, dilation,
                                                                   before, after, forward, attributes);
    return {dnnl::convolution_backward_data(backward),
            {{DNNL_ARG_DIFF_SRC, x}, {DNNL_ARG_WEIGHTS, backward.weights_desc()}, {DNNL_ARG_DIFF_DST, y}},
            backward.scratchpad_desc()};
  }
  const dnnl::convolution_backward_weights::primitive_desc backward(engine, direct, x, w, y, stride, dilation,
                                                                    before, after, forward, attributes);
  return {dnnl::convolution_backward_weights(backward),
          {{DNNL_ARG_SRC, x}, {DNNL_ARG_DIFF_WEIGHTS, backward.diff_weights_desc()}, {DNNL_ARG_DIFF_DST, y}},
          backward.scratchpad_desc()};
}

// to[i] = the sum over the parts of parts[part * count + i], in order.
CCONVNET_CLONES void add_parts(const float* parts, int parts_count, int64_t count, int64_t begin, int64_t end,
                               float* to) {
  constexpr int64_t kBlock = 2048;  // floats that stay in the nearest cache
  for (int64_t first = begin; first < end; first += kBlock) {
    const int64_t last = std::min(first + kBlock, end);
    std::copy(parts + first, parts + last, to + first);
    for (int part = 1; part < parts_count; ++part) {
      const float* from = parts + part * count;
#pragma omp simd
      for (int64_t i = first; i < last; ++i) to[i] += from[i];
    }
  }
}

// One pass of one problem.
class Convolution {
 public:
  Convolution(const ConvProblem& problem, Pass pass, bool bias)
      : pass_(pass),
        slices_(problem, pass),
        full_(primitive_of(problem, slices_.images, pass, bias, any_weights(problem, pass))) {
    const memory::desc w = full_.arguments.at(weights_key());
    if (const int rest = problem.n % slices_.images) rest_ = primitive_of(problem, rest, pass, bias, w);
    const memory::desc plain = weights(problem, onednn::weights_type_of(problem, pass), true);
    blocked_bytes_ = onednn::whole_lines(w.get_size());
    scratchpad_bytes_ = full_.scratchpad.get_size();
    if (rest_.primitive) scratchpad_bytes_ = std::max(scratchpad_bytes_, rest_.scratchpad.get_size());
    x_bytes_ = full_.arguments.at(pass == kDgrad ? DNNL_ARG_DIFF_SRC : DNNL_ARG_SRC).get_size();
    y_bytes_ = full_.arguments.at(pass == kFprop ? DNNL_ARG_DST : DNNL_ARG_DIFF_DST).get_size();
    same_layout_ = w == plain;
    if (!same_layout_) reorder_ = pass == kWgrad ? onednn::Reorder(w, plain) : onednn::Reorder(plain, w);
  }

  // With `place`, an output's slices are computed elsewhere and taken to their place, y is not used: oneDNN has
  // no fast kernel whose pixels are further apart than their channels.
  void run(const void* x, const void* w, const float* bias, const void* y, const Place* place = nullptr) {
    const size_t sums = pass_ == kWgrad && slices_.count > 1 ? slices_.count : 0;
    const size_t of_thread =
        onednn::whole_lines(scratchpad_bytes_) + (place ? onednn::whole_lines(y_bytes_) : 0);
    const size_t scratchpads = of_thread * slice_threads(slices_.count);
    char* const blocked = static_cast<char*>(onednn::scratch(blocked_bytes_ * (1 + sums) + scratchpads));
    char* const parts = blocked + blocked_bytes_;
    const void* const kernel_w = same_layout_ ? w : blocked;
    if (pass_ != kWgrad && !same_layout_) reorder_.run(w, blocked);
    onednn::run_slices(
        slices_.count, of_thread, parts + sums * blocked_bytes_, [&](int slice, char* scratchpad) {
          const bool last = slice == slices_.count - 1 && rest_.primitive;
          const void* const own_x = static_cast<const char*>(x) + slice * x_bytes_;
          const void* const own_y = place ? scratchpad + onednn::whole_lines(scratchpad_bytes_)
                                          : static_cast<const char*>(y) + slice * y_bytes_;
          const void* const own_w = sums ? parts + slice * blocked_bytes_ : kernel_w;
          const onednn::SlicePrimitive& primitive = last ? rest_ : full_;
          if (pass_ == kFprop) {
            primitive.run({{DNNL_ARG_SRC, own_x},
                           {DNNL_ARG_WEIGHTS, own_w},
                           {DNNL_ARG_BIAS, bias},
                           {DNNL_ARG_DST, own_y}},
                          scratchpad);
            if (place) take(*place, own_y, slice);
          } else if (pass_ == kDgrad) {
            primitive.run({{DNNL_ARG_DIFF_SRC, own_x}, {DNNL_ARG_WEIGHTS, own_w}, {DNNL_ARG_DIFF_DST, own_y}},
                          scratchpad);
          } else {
            primitive.run({{DNNL_ARG_SRC, own_x}, {DNNL_ARG_DIFF_WEIGHTS, own_w}, {DNNL_ARG_DIFF_DST, own_y}},
                          scratchpad);
          }
        });
    if (sums) {
      float* const sum = static_cast<float*>(const_cast<void*>(kernel_w));
      const int64_t stride = blocked_bytes_ / sizeof(float);
      const int64_t count = full_.arguments.at(weights_key()).get_size() / sizeof(float);
      parallel_ranges(count, sums, [&](int, int64_t begin, int64_t end) {
        add_parts(reinterpret_cast<const float*>(parts), slices_.count, stride, begin, end, sum);
      });
    }
    if (pass_ == kWgrad && !same_layout_) reorder_.run(blocked, w);
  }

 private:
  void take(const Place& place, const void* from, int slice) const {
    const ConvProblem& problem = place.problem;
    const int first = slices_.first(slice), images = std::min(slices_.images, problem.n - first);
    const int64_t pixels = int64_t{problem.p} * problem.q;
    place.take(from, first * pixels, images * pixels);
  }

  static memory::desc any_weights(const ConvProblem& problem, Pass pass) {
    return weights(problem, onednn::weights_type_of(problem, pass), false);
  }
  int weights_key() const { return pass_ == kWgrad ? DNNL_ARG_DIFF_WEIGHTS : DNNL_ARG_WEIGHTS; }

  Pass pass_;
  Slices slices_;
  onednn::SlicePrimitive full_, rest_;  // of a whole slice's images, and of what is left over
  size_t x_bytes_, y_bytes_;            // of a slice
  size_t blocked_bytes_, scratchpad_bytes_;
  bool same_layout_;  // of the kernel's weights and the caller's
  onednn::Reorder reorder_;
};

// ---- selection tables -----------------------------------------------------------------------------------
// oneDNN serves every problem, so it is the last row of each.

// Returns whether any of `windows` reads a pixel of the image at a tap `offset` pixels from its begin.
bool seen(int offset, int windows, int stride, int pad, int size) {
  for (int p = 0; p < windows; ++p) {
    const int i = p * stride - pad + offset;
    if (i >= 0 && i < size) return true;
  }
  return false;
}

// Taps that read only padding have no gradient. In bfloat16, where rows are short, oneDNN leaves the
// scratchpad's former contents there.
void clear_unseen_taps(const ConvProblem& problem, float* dw) {
  std::vector<char> rows(problem.r), columns(problem.s);
  for (int r = 0; r < problem.r; ++r)
    rows[r] = seen(r * problem.dilation_h, problem.p, problem.stride_h, problem.pad_h, problem.h);
  for (int s = 0; s < problem.s; ++s)
    columns[s] = seen(s * problem.dilation_w, problem.q, problem.stride_w, problem.pad_w, problem.w);
  const int taps = problem.r * problem.s, channels = problem.c_per_group();
  for (int tap = 0; tap < taps; ++tap) {
    if (rows[tap / problem.s] && columns[tap % problem.s]) continue;
    for (int k = 0; k < problem.k; ++k)
      std::fill_n(dw + (int64_t{k} * taps + tap) * channels, channels, 0.0f);
  }
}

void launch_fprop(const ConvProblem& problem, const FpropArguments& args, Stream stream) {
  CroppedImage x(problem);
  if (problem.is_placed()) {
    const Place place = {problem, args.epilogue.relu, args.y};
    onednn::run<Convolution>("conv", x.problem(), kFprop, x.of(args.x), args.w, args.epilogue.bias, args.y,
                             &place);
    return;
  }
  onednn::run<Convolution>("conv", x.problem(), kFprop, x.of(args.x), args.w, args.epilogue.bias, args.y);
  apply_after_bias(args.epilogue, problem.precision, problem.y_count(), args.y, stream);
  apply(args.statistics, problem, args.y, args.sums, stream);
}

void launch_dgrad(const ConvProblem& problem, const DgradArguments& args, Stream stream) {
  CroppedImage dx(problem);
  onednn::run<Convolution>("conv", dx.problem(), kDgrad, dx.destination_in(args.dx), args.w, nullptr,
                           args.dy);
  dx.spread(args.dx);
  apply(args.epilogue, problem.precision, pixels_of(problem), args.dx, args.sums, stream);
}

void launch_wgrad(const ConvProblem& problem, const WgradArguments& args, Stream stream) {
  ConvProblem same = problem;
  // oneDNN multiplies bfloat16s in pairs of pixels. The second of a single column is a stride away, where a
  // long stride reads memory after x or former contents of the scratchpad. They are multiplied by 0, but a
  // NaN stays NaN.
  if (problem.precision == Precision::bf16 && problem.q == 1) same.stride_w = 1;
  CroppedImage x(same);
  onednn::run<Convolution>("conv", x.problem(), kWgrad, x.of(args.x), args.dw, nullptr, args.dy);
  if (problem.precision == Precision::bf16) clear_unseen_taps(problem, args.dw);
  if (args.update) sgd_update(*args.update, args.dw, stream);
}

const FpropTable& fprop_table() {
  static const FpropTable table(
      "conv_fprop", {winograd_fprop_row(), {"onednn", false, always, always, no_workspace, launch_fprop}});
  return table;
}

const DgradTable& dgrad_table() {
  static const DgradTable table("conv_dgrad",
                                {depthwise_dgrad_row(),
                                 winograd_dgrad_row(),
                                 {"onednn", false, always, always, no_workspace, launch_dgrad}});
  return table;
}

const WgradTable& wgrad_table() {
  static const WgradTable table("conv_wgrad",
                                {depthwise_wgrad_row(),
                                 few_channels_wgrad_row(),
                                 winograd_wgrad_row(),
                                 {"onednn", false, always, always, no_workspace, launch_wgrad}});
  return table;
}

}  // namespace

size_t dgrad_sums_workspace(const ConvProblem& problem) {
  return bias_grad_workspace(pixels_of(problem));
}

size_t fprop_sums_workspace(const ConvProblem& problem) {
  return batch_norm_statistics_workspace(rows_of(problem, 0));
}

CCONVNET_MEASURED_FPROP(conv, ConvProblem, fprop_table(), problem)
CCONVNET_DGRAD(conv, ConvProblem, dgrad_table(), problem)
CCONVNET_WGRAD(conv, ConvProblem, wgrad_table(), problem)

}  // namespace cconvnet
