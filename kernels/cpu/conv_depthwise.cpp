// Depthwise convolutions: each channel has one filter of its own. The lanes are channels.
//
// dgrad computes a row of pixels, 16 channels at a time, in a buffer that stays in the nearest cache: a tap
// adds its products along the whole row, so that strides need no division. wgrad keeps the sums of a row of
// taps in registers while it walks along a row of outputs. Filters are w[C,R,S], which the kernels want as
// [R,S,C].
//
// oneDNN's kernels are as fast or faster for most problems, and serve all of fprop; the functions `prefers` name
// the others.
#include "lanes.h"
#include "parallel.h"
#include "tables.h"

namespace cconvnet {
namespace {

// The rows of outputs are summed in this many parts for any number of threads, and the parts are added in
// order.
constexpr int kParts = 16;
constexpr int kChunk = 5;  // taps that wgrad sums at once

// The outputs of a row whose windows have a tap on the image.
Range outputs_of_tap(const ConvProblem& problem, int s) {
  const int offset = s * problem.dilation_w - problem.pad_w, stride = problem.stride_w;
  const int begin = offset < 0 ? detail::ceil_div(-offset, stride) : 0;
  const int end = offset < problem.w ? (problem.w - 1 - offset) / stride + 1 : 0;
  return {begin, std::max(begin, std::min(end, problem.q))};
}

std::vector<Range> outputs_of_taps(const ConvProblem& problem) {
  std::vector<Range> outputs;
  for (int s = 0; s < problem.s; ++s) outputs.push_back(outputs_of_tap(problem, s));
  return outputs;
}

int taps(const ConvProblem& problem) {
  return problem.r * problem.s;
}

// ---- dgrad ----------------------------------------------------------------------------------------------

// Filters[tap][channel].
template <class T>
void transpose(const ConvProblem& problem, const T* w, float* filters) {
  const int64_t pitch = rounded_up(problem.c);
  for (int c = 0; c < problem.c; ++c) {
    for (int tap = 0; tap < taps(problem); ++tap) filters[tap * pitch + c] = to_float(*w++);
  }
}

// Row h of an image of dx, from the image's dy. `sums` has room for kLanes channels of the row.
template <class T>
CCONVNET_CLONES void dgrad_row(const ConvProblem& problem, const Range* outputs, const T* dy,
                               const float* filters, int h, float* sums, T* dx) {
  const int64_t pitch = rounded_up(problem.c), step = int64_t{problem.stride_w} * kLanes;
  for_lanes(problem.c, [&](int c, int lanes) __attribute__((always_inline)) {
    for (int w = 0; w < problem.w; ++w) store(sums + w * kLanes, Lanes{});
    for (int r = 0; r < problem.r; ++r) {
      const int reached = h + problem.pad_h - r * problem.dilation_h, p = reached / problem.stride_h;
      if (reached < 0 || reached % problem.stride_h != 0 || p >= problem.p) continue;
      for (int s = 0; s < problem.s; ++s) {
        const Lanes weight = load(filters + (r * problem.s + s) * pitch + c);
        const Range range = outputs[s];
        const T* gradient = dy + (int64_t{p} * problem.q + range.begin) * problem.c + c;
        float* sum =
            sums + int64_t{range.begin * problem.stride_w - problem.pad_w + s * problem.dilation_w} * kLanes;
        for (int i = range.size(); i > 0; --i, gradient += problem.c, sum += step) {
          store(sum, load(sum) + load(gradient, lanes) * weight);
        }
      }
    }
    for (int w = 0; w < problem.w; ++w) {
      store(dx + int64_t{w} * problem.c + c, load(sums + w * kLanes), lanes);
    }
  });
}

// The multiply-adds of one of an image's `rows`, for parallel_ranges.
int64_t row_cost(const ConvProblem& problem, int rows) {
  return std::min<int64_t>(problem.flops() / 2 / problem.n / rows + 1, kGrain * 64);
}

template <class T>
void dgrad(const ConvProblem& problem, const DgradArguments& args, Stream stream) {
  const T* const dy = static_cast<const T*>(args.dy);
  T* const dx = static_cast<T*>(args.dx);
  const int64_t image = int64_t{problem.p} * problem.q * problem.c, row = int64_t{problem.w} * problem.c;
  const int64_t rows = int64_t{problem.n} * problem.h, cost = row_cost(problem, problem.h);
  const int64_t buffer = int64_t{problem.w} * kLanes;
  const std::vector<Range> outputs = outputs_of_taps(problem);
  AlignedFloats filters(taps(problem) * rounded_up(problem.c)), sums(buffer * parallel_parts(rows, cost));
  transpose(problem, static_cast<const T*>(args.w), filters.data());
  parallel_ranges(rows, cost, [&](int part, int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      dgrad_row(problem, outputs.data(), dy + i / problem.h * image, filters.data(),
                static_cast<int>(i % problem.h), sums.data() + part * buffer, dx + i * row);
    }
  });
  apply(args.epilogue, pixels_of(problem), dx, args.sums, stream);
}

void launch_dgrad(const ConvProblem& problem, const DgradArguments& args, Stream stream) {
  problem.precision == Precision::bf16 ? dgrad<bfloat16>(problem, args, stream)
                                       : dgrad<float>(problem, args, stream);
}

// ---- wgrad ----------------------------------------------------------------------------------------------

// sums[0 .. COUNT)[pitch] += the products of a row of dy and the pixels that COUNT taps read of a row of x.
template <int COUNT, class T>
inline __attribute__((always_inline)) void add_taps(const ConvProblem& problem, const Range* outputs,
                                                    int first, const T* x, const T* dy, int lanes,
                                                    float* sums, int64_t pitch) {
  Lanes sum[COUNT];
  int begin = 0, end = problem.q;  // of the outputs whose taps are all on the image
  for (int t = 0; t < COUNT; ++t) {
    sum[t] = Lanes{};
    begin = std::max(begin, outputs[t].begin);
    end = std::min(end, outputs[t].end);
  }
  end = std::max(begin, end);
  const auto pixel = [&](int q, int t) __attribute__((always_inline)) {
    const int w = q * problem.stride_w - problem.pad_w + (first + t) * problem.dilation_w;
    return load(x + int64_t{w} * problem.c, lanes);
  };
  const auto add_where_inside = [&](Range range) __attribute__((always_inline)) {
    for (int t = 0; t < COUNT; ++t) {
      for (int q = std::max(range.begin, outputs[t].begin); q < std::min(range.end, outputs[t].end); ++q) {
        sum[t] += pixel(q, t) * load(dy + int64_t{q} * problem.c, lanes);
      }
    }
  };
  add_where_inside({0, begin});
  for (int q = begin; q < end; ++q) {
    const Lanes gradient = load(dy + int64_t{q} * problem.c, lanes);
#pragma GCC unroll 5
    for (int t = 0; t < COUNT; ++t) sum[t] += pixel(q, t) * gradient;
  }
  add_where_inside({end, problem.q});
  // Sums of rows, so that rounding grows with fewer terms.
  for (int t = 0; t < COUNT; ++t) store(sums + t * pitch, load(sums + t * pitch) + sum[t]);
}

// Rows [begin, end) of all outputs into sums[tap][channel].
template <class T>
CCONVNET_CLONES void add_rows(const ConvProblem& problem, const Range* outputs, const T* x, const T* dy,
                              int64_t begin, int64_t end, float* sums) {
  const int64_t pitch = rounded_up(problem.c);
  for (int64_t i = begin; i < end; ++i) {
    const int64_t n = i / problem.p, p = i % problem.p;
    const T* gradients = dy + i * problem.q * problem.c;
    for_lanes(problem.c, [&](int c, int lanes) __attribute__((always_inline)) {
      for (int r = 0; r < problem.r; ++r) {
        const int64_t h = p * problem.stride_h - problem.pad_h + r * problem.dilation_h;
        if (h < 0 || h >= problem.h) continue;
        const T* row = x + (n * problem.h + h) * problem.w * problem.c + c;
        for (int s = 0; s < problem.s; s += kChunk) {
          float* to = sums + (r * problem.s + s) * pitch + c;
          const auto add = [&](auto count) __attribute__((always_inline)) {
            add_taps<decltype(count)::value>(problem, outputs + s, s, row, gradients + c, lanes, to, pitch);
          };
          switch (std::min(kChunk, problem.s - s)) {
            case 1:
              add(std::integral_constant<int, 1>());
              break;
            case 2:
              add(std::integral_constant<int, 2>());
              break;
            case 3:
              add(std::integral_constant<int, 3>());
              break;
            case 4:
              add(std::integral_constant<int, 4>());
              break;
            default:
              add(std::integral_constant<int, kChunk>());
          }
        }
      }
    });
  }
}

template <class T>
void wgrad(const ConvProblem& problem, const WgradArguments& args) {
  const T *x = static_cast<const T*>(args.x), *dy = static_cast<const T*>(args.dy);
  const int64_t rows = int64_t{problem.n} * problem.p, pitch = rounded_up(problem.c);
  const int64_t parts = std::min<int64_t>(kParts, rows), count = taps(problem) * pitch;
  const std::vector<Range> outputs = outputs_of_taps(problem);
  AlignedFloats sums(parts * count);
  parallel_ranges(parts, row_cost(problem, problem.p) * (rows / parts), [&](int, int64_t begin, int64_t end) {
    for (int64_t part = begin; part < end; ++part) {
      add_rows(problem, outputs.data(), x, dy, rows * part / parts, rows * (part + 1) / parts,
               sums.data() + part * count);
    }
  });
  float* const sum = sums.data();
  for (int64_t part = 1; part < parts; ++part) {
    for (int64_t i = 0; i < count; ++i) sum[i] += sum[part * count + i];
  }
  for (int tap = 0; tap < taps(problem); ++tap) {
    for (int c = 0; c < problem.c; ++c) args.dw[c * taps(problem) + tap] = sum[tap * pitch + c];
  }
}

void launch_wgrad(const ConvProblem& problem, const WgradArguments& args, Stream stream) {
  problem.precision == Precision::bf16 ? wgrad<bfloat16>(problem, args) : wgrad<float>(problem, args);
  if (args.update) sgd_update(*args.update, args.dw, stream);
}

// ---- selection ------------------------------------------------------------------------------------------

bool supports(const ConvProblem& problem) {
  return problem.groups == problem.c && problem.k == problem.c;
}

bool dilated(const ConvProblem& problem) {
  return problem.dilation_h > 1 || problem.dilation_w > 1;
}

// On 2 cores of a Zen 5 with AVX-512 (2026-11-30, batch 16, 28x28x240) 5x5 filters of stride 2 take 1.6 ms in
// bfloat16 and oneDNN 32 ms; dilated 3x3 filters 2.3 ms in fp32, and 5.4 ms.
bool prefers_dgrad(const ConvProblem& problem) {
  const bool overlap = problem.stride_w > 1 && problem.stride_w < problem.s;
  return problem.c % kLanes == 0 && (dilated(problem) || (problem.precision == Precision::bf16 && overlap));
}

// There 5x5 filters take 2.6 ms in fp32 and 3.1 ms in bfloat16, with oneDNN 12 ms and 27 ms; dilated 3x3 filters
// 3.5 and 1.5 ms, and 11 and 19 ms.
bool prefers_wgrad(const ConvProblem& problem) {
  return problem.c % kLanes == 0 && (dilated(problem) || problem.s > 3);
}

}  // namespace

DgradTable::Row depthwise_dgrad_row() {
  return {"depthwise", false, supports, prefers_dgrad, no_workspace, launch_dgrad};
}

WgradTable::Row depthwise_wgrad_row() {
  return {"depthwise", false, supports, prefers_wgrad, no_workspace, launch_wgrad};
}

}  // namespace cconvnet
