// Patches of images in shared memory, from which convolutions with few input channels read their windows.
// The windows of a block's output pixels overlap: a patch has each pixel that they touch once, and zeros
// where they reach beyond the image. Lines of a patch are made of words, as tensor cores take them: a float
// rounded to tf32, or two neighbouring bfloat16s.
#pragma once

#include "core/passes.h"
#include "core/ptx.cuh"
#include "core/vector.cuh"

namespace cconvnet {

template <class T>
constexpr int kPerWord = sizeof(ptx::Word) / sizeof(T);

// An element's bits, and those with which tensor cores multiply.
__device__ __forceinline__ ptx::Word bits_of(float value) {
  return __float_as_uint(value);
}
__device__ __forceinline__ ptx::Word bits_of(bfloat16 value) {
  return value.bits;
}
__device__ __forceinline__ ptx::Word word_of(float value) {
  return ptx::to_tf32(bits_of(value));
}
__device__ __forceinline__ ptx::Word word_of(bfloat16 value) {
  return bits_of(value);
}

// The output pixels of a patch.
constexpr int kPatchRows = 8, kPatchColumns = 16, kPatchPixels = kPatchRows * kPatchColumns;

struct PatchShape {
  int pitch;         // elements from one pixel to the next: the channels, perhaps one more that is zero
  int lines, words;  // words of a line
  Divider by_pitch;

  // Returns whether a patch takes at most `most` words.
  static bool fits(const ConvProblem& problem, int pitch, int per_word, int64_t most) {
    // Each alone first: the product of all may not fit in 64 bits.
    return height(problem) <= most && width(problem) <= most * per_word &&
           height(problem) * line_words(problem, pitch, per_word) <= most;
  }

  static PatchShape make(const ConvProblem& problem, int pitch, int per_word) {
    return {pitch, static_cast<int>(height(problem)), static_cast<int>(line_words(problem, pitch, per_word)),
            Divider(pitch)};
  }

 private:
  // In pixels.
  static int64_t height(const ConvProblem& problem) {
    return int64_t{kPatchRows - 1} * problem.stride_h + detail::extent(problem.r, problem.dilation_h);
  }
  static int64_t width(const ConvProblem& problem) {
    return int64_t{kPatchColumns - 1} * problem.stride_w + detail::extent(problem.s, problem.dilation_w);
  }
  static int64_t line_words(const ConvProblem& problem, int pitch, int per_word) {
    return ceil_div(width(problem) * pitch, per_word);
  }
};

// The output pixels of all patches, in the order of image, row and column.
struct PatchGrid {
  int rows, columns, count;
  Divider by_rows, by_columns;

  static PatchGrid make(const ConvProblem& problem) {
    const int rows = static_cast<int>(ceil_div(problem.p, kPatchRows));
    const int columns = static_cast<int>(ceil_div(problem.q, kPatchColumns));
    return {rows, columns, problem.n * rows * columns, Divider(rows), Divider(columns)};
  }
};

// One of them.
struct Patch {
  int n, p, q;  // the image and the first output pixel

  __device__ __forceinline__ Patch(const PatchGrid& grid, int index) {
    int row, column;
    n = grid.by_rows.divide(grid.by_columns.divide(index, column), row);
    p = row * kPatchRows;
    q = column * kPatchColumns;
  }

  // Fills `words` with the pixels of the `channels` channels from x on. Lanes share the words of a line,
  // warps the lines.
  template <int THREADS, class T>
  __device__ __forceinline__ void load(ptx::Word* words, const ConvProblem& problem, const PatchShape& shape,
                                       const T* x, int channels) const {
    constexpr int PER_WORD = kPerWord<T>;
    const uint32_t first_h = p * problem.stride_h - problem.pad_h;
    const uint32_t first_w = q * problem.stride_w - problem.pad_w;
    const uint32_t line = problem.w * problem.c;
    const T* const image = x + static_cast<size_t>(n) * problem.h * line;
    for (int word = threadIdx.x % 32; word < shape.words; word += 32) {
      uint32_t offset[PER_WORD];
      bool inside[PER_WORD];
#pragma unroll
      for (int i = 0; i < PER_WORD; ++i) {
        int channel;
        const uint32_t w = first_w + shape.by_pitch.divide(word * PER_WORD + i, channel);
        inside[i] = w < static_cast<uint32_t>(problem.w) && channel < channels;
        offset[i] = (first_h + threadIdx.x / 32) * line + w * problem.c + channel;
      }
#pragma unroll 4
      for (int i = threadIdx.x / 32; i < shape.lines; i += THREADS / 32) {
        const bool in_image = first_h + i < static_cast<uint32_t>(problem.h);
        ptx::Word value = 0;
#pragma unroll
        for (int j = 0; j < PER_WORD; ++j) {
          if (in_image && inside[j]) value += word_of(image[offset[j]]) << (16 * j);
          offset[j] += THREADS / 32 * line;
        }
        words[i * shape.words + word] = value;
      }
    }
  }
};

}  // namespace cconvnet
