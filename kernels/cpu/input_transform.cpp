// A batch of numbers from uint8 images: crop, mirror, subtract the mean, shift the colours, scale; optionally
// space to depth. A row of an output image is one item of work: computed as floats in a buffer, then written
// to its destination.
//
// Filters to blocks and back are here too, because they rearrange weights in the same way.
#include <algorithm>
#include <utility>
#include <vector>

#include "api.h"
#include "parallel.h"

namespace cconvnet {
namespace {

struct InputRow {
  const uint8_t* image;  // the row's first pixel in the crop and in the image
  const float* mean;     // likewise, or with center_mean the output's; may be null
  bool center_mean;
  const float* shift;  // per channel; may be null
  bool mirror;
  const float* factors;  // per channel, with the scale; may be null
};

// Moves a crop's first row or column, given how many places it has in the image, into the margin at most.
int clamped(int first, int room, int margin) {
  return std::clamp(first, -margin, room + margin);
}

void mirror_row(float* y, int count, int c) {
  for (float *left = y, *right = y + count - c; left < right; left += c, right -= c) {
    for (int i = 0; i < c; ++i) std::swap(left[i], right[i]);
  }
}

// Transforms the row in the image's order, so that its q*c values become vector code; mirrors it after the
// mean is subtracted.
CCONVNET_CLONES void transform_row(const InputRow& row, int q, int c, float scale, float* y) {
  const uint8_t* pixels = row.image;
  const int count = q * c;
  const float* mean = row.mean;
  if (mean && !row.center_mean) {
#pragma omp simd
    for (int i = 0; i < count; ++i) y[i] = static_cast<float>(pixels[i]) - mean[i];
  } else {
#pragma omp simd
    for (int i = 0; i < count; ++i) y[i] = static_cast<float>(pixels[i]);
  }
  if (row.mirror) mirror_row(y, count, c);
  if (mean && row.center_mean) {
#pragma omp simd
    for (int i = 0; i < count; ++i) y[i] -= mean[i];
  }
  if (row.shift) {
    for (int j = 0; j < count; j += c) {
      for (int i = 0; i < c; ++i) y[j + i] += row.shift[i];
    }
  }
  if (row.factors) {
    for (int j = 0; j < count; j += c) {
      for (int i = 0; i < c; ++i) y[j + i] *= row.factors[i];
    }
    return;
  }
#pragma omp simd
  for (int i = 0; i < count; ++i) y[i] *= scale;
}

// to[piece * stride + i] = from[piece * length + i].
template <class T>
CCONVNET_CLONES void write_pieces(const float* from, int pieces, int length, int stride, T* to) {
  for (int piece = 0; piece < pieces; ++piece, from += length, to += stride) {
#pragma omp simd
    for (int i = 0; i < length; ++i) to[i] = from_float<T>(from[i]);
  }
}

// Calls function(offset of w's row, its offset in blocks, values) for each piece of a row of `block` pixels
// of blocks[K, blocks_r, blocks_s, block, block, C]. The first `values` numbers of a piece are w's, the
// others zeros.
template <class Function>
void for_pieces(const FilterBlocksProblem& problem, const Function& function) {
  const int64_t piece = int64_t{problem.block} * problem.c;
  int64_t offset = 0;
  for (int k = 0; k < problem.k; ++k) {
    for (int row_of_blocks = 0; row_of_blocks < problem.blocks_r(); ++row_of_blocks) {
      for (int column = 0; column < problem.blocks_s() * problem.block; column += problem.block) {
        for (int r = row_of_blocks * problem.block; r < (row_of_blocks + 1) * problem.block;
             ++r, offset += piece) {
          const int pixels = r < problem.r ? std::min(problem.block, problem.s - column) : 0;
          function(((int64_t{k} * problem.r + r) * problem.s + column) * problem.c, offset,
                   int64_t{pixels} * problem.c);
        }
      }
    }
  }
}

}  // namespace

template <class T>
void input_transform(const InputProblem& problem, const uint8_t* images, const int32_t* top,
                     const int32_t* left, const uint8_t* mirror, const float* mean, const float* shift,
                     float scale, const float* factors, T* y, Stream) {
  std::vector<float> scaled_factors(factors ? problem.c : 0);
  for (size_t c = 0; c < scaled_factors.size(); ++c) scaled_factors[c] = scale * factors[c];
  const int64_t rows = int64_t{problem.blocks_h()} * problem.block;
  const int blocks = problem.blocks_w(), piece = problem.block * problem.c;
  const int64_t length = int64_t{blocks} * piece;
  std::vector<float> buffers(length * parallel_parts(problem.n * rows, 4 * length));
  parallel_ranges(problem.n * rows, 4 * length, [&](int part, int64_t begin, int64_t end) {
    float* buffer = buffers.data() + part * length;
    for (int64_t item = begin; item < end; ++item) {
      const int64_t n = item / rows, row = item % rows, p = row - problem.pad;
      const int i = clamped(top[n], problem.h - problem.p, problem.margin) + static_cast<int>(p),
                j = clamped(left[n], problem.w - problem.q, problem.margin);
      // The columns of the crop that are in the image, in the image's order.
      const int first = std::max(0, -j), count = std::min(problem.q, problem.w - j) - first;
      const bool inside = p >= 0 && p < problem.p && i >= 0 && i < problem.h && count > 0;
      if (!inside || count < problem.q) std::fill_n(buffer, length, 0.0f);
      if (inside) {
        const int64_t pixel = (int64_t{i} * problem.w + j + first) * problem.c;
        const int64_t q = mirror[n] ? problem.q - first - count : first;  // the output's first column
        const int64_t center =
            (((problem.h - problem.p) / 2 + p) * problem.w + (problem.w - problem.q) / 2 + q) * problem.c;
        transform_row({images + n * problem.h * problem.w * problem.c + pixel,
                       mean ? mean + (problem.center_mean ? center : pixel) : nullptr, problem.center_mean,
                       shift ? shift + n * problem.c : nullptr, mirror[n] != 0,
                       factors ? scaled_factors.data() : nullptr},
                      count, problem.c, scale, buffer + (problem.pad + q) * problem.c);
      }
      // A row of pixels is one piece of each of its blocks.
      T* to = y + ((n * rows + row - row % problem.block) * blocks + row % problem.block) * piece;
      if (problem.block == 1) {
        write_pieces(buffer, 1, static_cast<int>(length), 0, to);
      } else {
        write_pieces(buffer, blocks, piece, problem.block * piece, to);
      }
    }
  });
}

template <class T>
void filters_to_blocks(const FilterBlocksProblem& problem, const float* w, T* blocks, Stream) {
  const int64_t piece = int64_t{problem.block} * problem.c;
  for_pieces(problem, [&](int64_t from, int64_t to, int64_t count) {
    for (int64_t i = 0; i < piece; ++i) blocks[to + i] = from_float<T>(i < count ? w[from + i] : 0.0f);
  });
}

void filters_from_blocks(const FilterBlocksProblem& problem, const float* dblocks, float* dw, Stream) {
  for_pieces(problem, [&](int64_t to, int64_t from, int64_t count) {
    for (int64_t i = 0; i < count; ++i) dw[to + i] = dblocks[from + i];
  });
}

template void input_transform(const InputProblem&, const uint8_t*, const int32_t*, const int32_t*,
                              const uint8_t*, const float*, const float*, float, const float*, float*,
                              Stream);
template void input_transform(const InputProblem&, const uint8_t*, const int32_t*, const int32_t*,
                              const uint8_t*, const float*, const float*, float, const float*, bfloat16*,
                              Stream);
template void filters_to_blocks(const FilterBlocksProblem&, const float*, float*, Stream);
template void filters_to_blocks(const FilterBlocksProblem&, const float*, bfloat16*, Stream);

}  // namespace cconvnet
