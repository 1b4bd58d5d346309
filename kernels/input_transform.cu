// A batch of numbers from stored uint8 images: crop, mirror, subtract the mean, shift the colours, scale.
//   y[n,p,q,c] = scale * factors[c] * (images[n,i,j,c] - mean[i,j,c] + shift[n,c]),
//   i = top[n] + p, j = left[n] + (mirrored) q;  0 where i or j is outside the image.
// Also the filters of a convolution for such a batch in blocks.
//
// A cell is contiguous in y: with blocks it is one of them, without it is a whole row of the image, or several
// rows. Two kinds of kernels, in the order of the selection table:
// - bands: rows of an image are words. A block computes a row of cells. Its threads read the image and the mean
//   in their own order, four elements at once, and put the results in y's order in shared memory. From there
//   they are written as whole vectors. A thread keeps its place in the row for all rows of the band, so it
//   divides once.
// - a thread writes WIDTH neighbouring elements of one cell. It reads its bytes one by one.
#include "core/select.h"
#include "core/vector.cuh"

namespace cconvnet {
namespace {

// ---- bands ----------------------------------------------------------------------------------------------

constexpr int kGroup = 4;              // bytes of a word
constexpr int kBandBytes = 24 * 1024;  // leaves room for several blocks on a multiprocessor
constexpr int kBandRows = 8;           // of images without blocks, at most

// The arrays of one call.
template <class T>
struct InputArrays {
  const uint8_t* images;
  const int32_t *top, *left;
  const uint8_t* mirror;
  const float *mean, *shift;  // may be null
  float scale;
  const float* factors;  // may be null
  T* y;
  void* workspace = nullptr;
  bool aligned() const { return cconvnet::aligned(images, mean, y); }
};

int cell_width(const InputProblem& problem) {
  return problem.block > 1 ? problem.block : problem.q;
}

struct Bands {
  InputProblem problem;
  int height;       // rows of pixels of an image in y
  int rows, count;  // of pixels in a band, and of bands in an image
  int cell_row;     // elements of a row of a cell
  int row;          // elements of a row of all cells
  int groups;       // in which the elements of a row may lie
  Divider count_div, c_div, cell_row_div;

  Bands(const InputProblem& problem, size_t element_size)
      : problem(problem),
        height(problem.blocks_h() * problem.block),
        rows(problem.block > 1 ? problem.block : rows_that_fit(problem, element_size)),
        count(static_cast<int>(ceil_div(height, std::max(rows, 1)))),
        cell_row(cell_width(problem) * problem.c),
        row(problem.blocks_w() * problem.block * problem.c),
        groups(static_cast<int>(ceil_div(int64_t{row} + kGroup - 1, kGroup))),
        count_div(count),
        c_div(problem.c),
        cell_row_div(cell_row) {}

 private:
  static int rows_that_fit(const InputProblem& problem, size_t element_size) {
    const int64_t row = int64_t{problem.q} * problem.c * static_cast<int64_t>(element_size);
    return static_cast<int>(std::min<int64_t>({kBandRows, problem.p, kBandBytes / row}));
  }
};

template <class T>
struct alignas(kVectorBytes) Band {
  T at[kBandBytes / sizeof(T)];
};

template <class T>
__global__ void __launch_bounds__(kThreads) input_transform_bands(Bands args, InputArrays<T> arrays) {
  constexpr int WIDTH = kVectorWidth<T>;
  T* const band = shared_memory<Band<T>>().at;
  const InputProblem& problem = args.problem;
  int index;
  const int n = args.count_div.divide(blockIdx.x, index);
  const int first_row = index * args.rows;  // of y
  const int rows = min(args.rows, args.height - first_row);
  const int top = max(-problem.margin, min(arrays.top[n], problem.h - problem.p + problem.margin));
  const int left = max(-problem.margin, min(arrays.left[n], problem.w - problem.q + problem.margin));
  const bool mirrored = arrays.mirror[n] != 0;
  const int image_row = problem.w * problem.c;

  // Elements of a row of the image: the first that belongs to y's row, and those of the crop in the image.
  const int columns = args.row / problem.c;
  const int first = (mirrored ? left + problem.q + problem.pad - columns : left - problem.pad) * problem.c;
  const int crop_begin = max(left, 0) * problem.c;
  const int crop_end = min(left + problem.q, problem.w) * problem.c;
  const int center = ((problem.w - problem.q) / 2 - problem.pad) * problem.c;

  for (int group = threadIdx.x; group < args.groups; group += blockDim.x) {
    const int at = (first & -kGroup) + kGroup * group;
    int in_row[kGroup], in_band[kGroup];  // of y; in the first row of the band, or -1
    bool in_crop[kGroup];
    float shift[kGroup], factor[kGroup];
    int c;
    int pixel = args.c_div.divide(max(at - first, 0), c);
#pragma unroll
    for (int i = 0; i < kGroup; ++i) {
      const int element = at + i;
      in_row[i] = (mirrored ? columns - 1 - pixel : pixel) * problem.c + c;
      in_band[i] = element >= first && element < first + args.row
                       ? in_row[i] + args.cell_row_div.quotient(in_row[i]) * (args.rows - 1) * args.cell_row
                       : -1;
      in_crop[i] = element >= crop_begin && element < crop_end;
      shift[i] = arrays.shift ? arrays.shift[n * problem.c + c] : 0.0f;
      factor[i] = arrays.factors ? arrays.scale * arrays.factors[c] : arrays.scale;
      if (element >= first && ++c == problem.c) {
        c = 0;
        ++pixel;
      }
    }
    // A word is within the row of the image or beyond it, as a whole.
    const bool any_in_crop = in_crop[0] || in_crop[1] || in_crop[2] || in_crop[3];
    for (int row = 0; row < rows; ++row) {
      const int p = first_row + row - problem.pad, h = top + p;
      Vector<kGroup> value = zeros<kGroup>();
      if (any_in_crop && p >= 0 && p < problem.p && h >= 0 && h < problem.h) {
        const int offset = h * image_row + at;
        const uint32_t word =
            *reinterpret_cast<const uint32_t*>(arrays.images + int64_t{n} * problem.h * image_row + offset);
        Vector<kGroup> mean = zeros<kGroup>();
        if (arrays.mean && !problem.center_mean) mean = load<kGroup>(arrays.mean + offset);
#pragma unroll
        for (int i = 0; i < kGroup; ++i) {
          if (arrays.mean && problem.center_mean && in_crop[i]) {
            mean.lane[i] = arrays.mean[((problem.h - problem.p) / 2 + p) * image_row + center + in_row[i]];
          }
          const float stored = static_cast<uint8_t>(word >> 8 * i);
          const float result = (stored - mean.lane[i] + shift[i]) * factor[i];
          value.lane[i] = in_crop[i] ? result : 0.0f;
        }
      }
      const Packed<kGroup, T> packed = pack<T>(value);
#pragma unroll
      for (int i = 0; i < kGroup; ++i) {
        if (in_band[i] >= 0) band[in_band[i] + row * args.cell_row] = packed.lane[i];
      }
    }
  }
  __syncthreads();
  T* const y = arrays.y + (int64_t{n} * args.height + first_row) * args.row;
  for (int i = threadIdx.x * WIDTH; i < rows * args.row; i += blockDim.x * WIDTH) {
    store(y + i, load_packed<WIDTH>(band + i));
  }
}

template <class T>
void launch_bands(const InputProblem& problem, const InputArrays<T>& arrays, Stream stream) {
  const Bands args(problem, sizeof(T));
  const int64_t passes = ceil_div(args.groups, kThreads);
  const int threads = static_cast<int>(ceil_div(args.groups, passes));
  const dim3 grid(static_cast<unsigned>(int64_t{problem.n} * args.count));
  CCONVNET_LAUNCH((input_transform_bands<T>), grid, threads, stream, args, arrays);
}

// ---- any problem ----------------------------------------------------------------------------------------

struct InputArguments {
  int h, w, c, p, q;
  bool center_mean;
  int cell_h, cell_w, pad, margin;
  int vectors;  // of y
  // By the vectors of a cell, the cells in a row, the rows of cells, C and cell_w.
  Divider vectors_div, columns_div, rows_div, c_div, cell_w_div;
  const uint8_t* images;
  const int32_t* top;
  const int32_t* left;
  const uint8_t* mirror;
  const float* mean;   // may be null
  const float* shift;  // may be null
  float scale;
  const float* factors;  // may be null
};

template <int WIDTH, class T>
__global__ void __launch_bounds__(kThreads) input_transform_kernel(InputArguments args, T* y) {
  const int64_t thread = int64_t{blockIdx.x} * kThreads + threadIdx.x;
  if (thread >= args.vectors) return;
  int vector, column, row, c, cell_q;
  const int cell = args.vectors_div.divide(static_cast<int>(thread), vector);
  const int n = args.rows_div.divide(args.columns_div.divide(cell, column), row);
  const int cell_p = args.cell_w_div.divide(args.c_div.divide(vector * WIDTH, c), cell_q);
  const int first_q = column * args.cell_w - args.pad;
  int p = row * args.cell_h - args.pad + cell_p;
  int q = first_q + cell_q;

  const int top = max(-args.margin, min(args.top[n], args.h - args.p + args.margin));
  const int left = max(-args.margin, min(args.left[n], args.w - args.q + args.margin));
  const bool mirrored = args.mirror[n] != 0;
  const uint8_t* image = args.images + int64_t{n} * args.h * args.w * args.c;

  Vector<WIDTH> result;
#pragma unroll
  for (int lane = 0; lane < WIDTH; ++lane) {
    float value = 0.0f;  // of the padding and the margin
    const int i = top + p, j = left + (mirrored ? args.q - 1 - q : q);
    const bool in_crop = p >= 0 && p < args.p && q >= 0 && q < args.q;
    if (in_crop && i >= 0 && i < args.h && j >= 0 && j < args.w) {
      const int pixel = (i * args.w + j) * args.c + c;
      const int center = (((args.h - args.p) / 2 + p) * args.w + (args.w - args.q) / 2 + q) * args.c + c;
      value = image[pixel];
      if (args.mean) value -= args.mean[args.center_mean ? center : pixel];
      if (args.shift) value += args.shift[n * args.c + c];
      value *= args.factors ? args.scale * args.factors[c] : args.scale;
    }
    result.lane[lane] = value;
    if (++c == args.c) {
      c = 0;
      if (++q == first_q + args.cell_w) {
        q = first_q;
        ++p;
      }
    }
  }
  store(y + thread * WIDTH, result);
}

template <int WIDTH, class T>
void launch(const InputProblem& problem, const InputArrays<T>& arrays, Stream stream) {
  const int cell_h = problem.block, cell_w = cell_width(problem);
  const InputArguments args{problem.h,
                            problem.w,
                            problem.c,
                            problem.p,
                            problem.q,
                            problem.center_mean,
                            cell_h,
                            cell_w,
                            problem.pad,
                            problem.margin,
                            problem.y_count() / WIDTH,
                            Divider(cell_h * cell_w * problem.c / WIDTH),
                            Divider(problem.block > 1 ? problem.blocks_w() : 1),
                            Divider(problem.blocks_h()),
                            Divider(problem.c),
                            Divider(cell_w),
                            arrays.images,
                            arrays.top,
                            arrays.left,
                            arrays.mirror,
                            arrays.mean,
                            arrays.shift,
                            arrays.scale,
                            arrays.factors};
  const dim3 grid(static_cast<unsigned>(ceil_div(args.vectors, kThreads)));
  CCONVNET_LAUNCH((input_transform_kernel<WIDTH, T>), grid, kThreads, stream, args, arrays.y);
}

template <class T>
bool vectors_divide_cells(const InputProblem& problem) {
  return problem.block * cell_width(problem) * problem.c % kVectorWidth<T> == 0;
}

// Rows of images must be words, and bands whole vectors that fit.
template <class T>
bool bands_serve(const InputProblem& problem) {
  const Bands bands(problem, sizeof(T));
  return vectors_divide_cells<T>(problem) && problem.w * problem.c % kGroup == 0 && bands.rows > 0 &&
         int64_t{bands.rows} * bands.row * static_cast<int64_t>(sizeof(T)) <= kBandBytes;
}

template <class T>
const SelectionTable<InputProblem, InputArrays<T>>& table() {
  static const std::string name = std::string("input_transform_") + kElementName<T>;
  static const SelectionTable<InputProblem, InputArrays<T>> table(
      "input_transform",
      {{name + "_bands", true, bands_serve<T>, always, no_workspace, launch_bands<T>},
       {name, true, vectors_divide_cells<T>, always, no_workspace, launch<kVectorWidth<T>, T>},
       {name + "_scalar", false, always, always, no_workspace, launch<1, T>}});
  return table;
}

// ---- filters --------------------------------------------------------------------------------------------

struct FilterBlocks {
  FilterBlocksProblem problem;
  // By C, the sides of a block, and how many blocks a filter is wide and high.
  Divider c_div, block_div, columns_div, rows_div;

  explicit FilterBlocks(const FilterBlocksProblem& problem)
      : problem(problem),
        c_div(problem.c),
        block_div(problem.block),
        columns_div(problem.blocks_s()),
        rows_div(problem.blocks_r()) {}

  // The index in w of element i of the blocks, or -1 if it is beyond its filter.
  __device__ __forceinline__ int in_filter(int i) const {
    int c, s, r, column, row;
    int rest = block_div.divide(c_div.divide(i, c), s);
    rest = columns_div.divide(block_div.divide(rest, r), column);
    const int k = rows_div.divide(rest, row);
    r += row * problem.block;
    s += column * problem.block;
    return r < problem.r && s < problem.s ? ((k * problem.r + r) * problem.s + s) * problem.c + c : -1;
  }
};

template <class T>
__global__ void __launch_bounds__(kThreads)
    filters_to_blocks_kernel(int count, FilterBlocks args, const float* w, T* blocks) {
  const int64_t i = int64_t{blockIdx.x} * kThreads + threadIdx.x;
  if (i >= count) return;
  const int from = args.in_filter(static_cast<int>(i));
  const float weight = from < 0 ? 0.0f : w[from];
  blocks[i] = from_float<T>(weight);
}

__global__ void __launch_bounds__(kThreads)
    filters_from_blocks_kernel(int count, FilterBlocks args, const float* dblocks, float* dw) {
  const int64_t i = int64_t{blockIdx.x} * kThreads + threadIdx.x;
  if (i >= count) return;
  const int to = args.in_filter(static_cast<int>(i));
  if (to >= 0) dw[to] = dblocks[i];
}

dim3 filter_grid(const FilterBlocksProblem& problem) {
  return dim3(static_cast<unsigned>(ceil_div(problem.blocks_count(), kThreads)));
}

}  // namespace

template <class T>
void input_transform(const InputProblem& problem, const uint8_t* images, const int32_t* top,
                     const int32_t* left, const uint8_t* mirror, const float* mean, const float* shift,
                     float scale, const float* factors, T* y, Stream stream) {
  table<T>().run(problem, {images, top, left, mirror, mean, shift, scale, factors, y}, stream, nullptr);
}

template <class T>
void filters_to_blocks(const FilterBlocksProblem& problem, const float* w, T* blocks, Stream stream) {
  CCONVNET_LAUNCH(filters_to_blocks_kernel<T>, filter_grid(problem), kThreads, stream, problem.blocks_count(),
                  FilterBlocks(problem), w, blocks);
}

void filters_from_blocks(const FilterBlocksProblem& problem, const float* dblocks, float* dw, Stream stream) {
  CCONVNET_LAUNCH(filters_from_blocks_kernel, filter_grid(problem), kThreads, stream, problem.blocks_count(),
                  FilterBlocks(problem), dblocks, dw);
}

template void input_transform(const InputProblem&, const uint8_t*, const int32_t*, const int32_t*,
                              const uint8_t*, const float*, const float*, float, const float*, float*,
                              Stream);
template void filters_to_blocks(const FilterBlocksProblem&, const float*, float*, Stream);

template void input_transform(const InputProblem&, const uint8_t*, const int32_t*, const int32_t*,
                              const uint8_t*, const float*, const float*, float, const float*, bfloat16*,
                              Stream);
template void filters_to_blocks(const FilterBlocksProblem&, const float*, bfloat16*, Stream);

}  // namespace cconvnet
