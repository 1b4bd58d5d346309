// Convolution of 3x3 and 5x5 filters by Winograd's algorithm: fewer products, which round differently.
//
// The result is cut into tiles of 4x4 pixels (2x2 with 5x5 filters), each from 6x6 pixels of the image. Tiles
// and filters are transformed (winograd.h). Then each of 36 points has a matrix product of its own over the
// channels, and its results are transformed back. These are 4 times fewer products than the taps ask for (2.8
// times with 5x5 filters), less what tiles at the edges leave unused. dgrad is the same with dy as the image
// and the filters turned by 180 degrees.
//
// wgrad transforms tiles of 4x4 pixels and of 2x2 gradients, sums their products at 16 points over the tiles,
// and transforms the sums: 2.25 times fewer products. With 36 points its error was ten times that of a plain
// sum, which in wgrad is a sum of parts. It has no row for 5x5 filters, which need so many points.
//
// Threads share the tiles. A pixel is the sum over channels in their order, so it depends neither on the
// threads nor on the other images of the batch.
#include <cstdlib>
#include <dnnl.hpp>
#include <string>
#include <vector>

#include "lanes.h"
#include "onednn.h"
#include "placed.h"
#include "tables.h"
#include "winograd.h"

namespace cconvnet {
namespace {

using winograd::Evaluation;
using winograd::Interpolation;

constexpr int kPoints = 6, kProducts = kPoints * kPoints;  // of fprop and dgrad
constexpr int kWgradPoints = 4, kWgradProducts = kWgradPoints * kWgradPoints;

// ---- matrix products ------------------------------------------------------------------------------------

constexpr int kMaxVectors = 4;     // of a block of columns
constexpr int kAccumulators = 24;  // vectors of sums, which leave 8 registers for factors

constexpr int rows_of(int vectors) {
  return std::min(12, kAccumulators / vectors);
}

// The number of rows that a product of `rows` rows writes at most: it writes whole tiles of 6, 8 or 12.
constexpr int whole_tiles(int rows) {
  return (rows + kAccumulators - 1) / kAccumulators * kAccumulators;
}

// The columns of a matrix in blocks of 1 to 4 vectors, as even as possible. Each block is stored as a matrix
// of its own.
struct ColumnBlocks {
  int vectors, blocks;

  explicit ColumnBlocks(int columns)
      : vectors(columns / kLanes), blocks(detail::ceil_div(vectors, kMaxVectors)) {}
  int first(int block) const { return vectors * block / blocks; }
  int width(int block) const { return first(block + 1) - first(block); }

  // The offset of a vector of a row in a matrix of `rows` rows.
  int64_t offset(int vector, int row, int rows) const {
    const int block = ((vector + 1) * blocks - 1) / vectors;
    return (int64_t{first(block)} * rows + int64_t{row} * width(block) + vector - first(block)) * kLanes;
  }
};

// The left factor of a product: its floats from row to row, and from one step of the sum to the next.
struct Left {
  const float* data;
  int64_t row, step;
};

// result = left * right, or += with `add`, for one block of columns.
template <int VECTORS>
inline __attribute__((always_inline)) void multiply_block(const Left& left, int rows, const float* right,
                                                          int depth, bool add, float* result,
                                                          int64_t result_row) {
  constexpr int ROWS = rows_of(VECTORS);
  for (int first = 0; first < rows; first += ROWS) {
    float* const to = result + first * result_row;
    const float* const from = left.data + first * left.row;
    Lanes sum[ROWS][VECTORS];
#pragma GCC unroll 12
    for (int row = 0; row < ROWS; ++row) {
#pragma GCC unroll 4
      for (int v = 0; v < VECTORS; ++v) sum[row][v] = Lanes{};
    }
    for (int64_t i = 0; i < depth; ++i) {
      Lanes factor[VECTORS];
#pragma GCC unroll 4
      for (int v = 0; v < VECTORS; ++v) factor[v] = load(right + (i * VECTORS + v) * kLanes);
#pragma GCC unroll 12
      for (int row = 0; row < ROWS; ++row) {
#pragma GCC unroll 4
        for (int v = 0; v < VECTORS; ++v) sum[row][v] += from[row * left.row + i * left.step] * factor[v];
      }
    }
#pragma GCC unroll 12
    for (int row = 0; row < ROWS; ++row) {
#pragma GCC unroll 4
      for (int v = 0; v < VECTORS; ++v) {
        float* const own = to + row * result_row + v * kLanes;
        store(own, add ? load(own) + sum[row][v] : sum[row][v]);
      }
    }
  }
}

CCONVNET_CLONES void multiply(const Left& left, int rows, const float* right, const ColumnBlocks& columns,
                              int depth, bool add, float* result, int64_t result_row) {
  for (int block = 0; block < columns.blocks; ++block) {
    const int64_t first = int64_t{columns.first(block)} * kLanes;
    const float* const own = right + first * depth;
    switch (columns.width(block)) {
      case 1:
        multiply_block<1>(left, rows, own, depth, add, result + first, result_row);
        break;
      case 2:
        multiply_block<2>(left, rows, own, depth, add, result + first, result_row);
        break;
      case 3:
        multiply_block<3>(left, rows, own, depth, add, result + first, result_row);
        break;
      default:
        multiply_block<kMaxVectors>(left, rows, own, depth, add, result + first, result_row);
    }
  }
}

// ---- tiles ----------------------------------------------------------------------------------------------

// An array of images in NHWC, whose pixels are `pitch` elements apart.
template <class T>
struct Images {
  T* data;
  int n, h, w, c;
  int pitch = c;
  T* pixel(int image, int i, int j) const { return data + ((int64_t{image} * h + i) * w + j) * pitch; }
};

// Squares of `size` pixels that cover the images of a batch.
struct Tiles {
  int size, rows, columns, count;

  Tiles(int size, int n, int h, int w)
      : size(size),
        rows(detail::ceil_div(h, size)),
        columns(detail::ceil_div(w, size)),
        count(n * rows * columns) {}
  int image(int tile) const { return tile / (rows * columns); }
  int top(int tile) const { return tile / columns % rows * size; }
  int left(int tile) const { return tile % columns * size; }
};

// The tiles [begin, end) at the points. A tile is kFrom pixels high and wide and begins `pad` pixels above
// and left of its place; pixels outside the image are zeros. write(tile - begin, vector) returns the address
// of the first point's vector, from which the next ones are `point` floats apart.
template <class Transform, class Write>
inline __attribute__((always_inline)) void transform_tiles(const Tiles& tiles,
                                                           const Images<const float>& images, int pad_h,
                                                           int pad_w, int begin, int end, const float* zeros,
                                                           int64_t point, const Write& write) {
  constexpr int kSide = Transform::kFrom;
  for (int tile = begin; tile < end; ++tile) {
    const int image = tiles.image(tile), top = tiles.top(tile) - pad_h, left = tiles.left(tile) - pad_w;
    const float* pixels[kSide][kSide];
    for (int i = 0; i < kSide; ++i) {
      for (int j = 0; j < kSide; ++j) {
        const bool inside = top + i >= 0 && top + i < images.h && left + j >= 0 && left + j < images.w;
        pixels[i][j] = inside ? images.pixel(image, top + i, left + j) : zeros;
      }
    }
    for (int v = 0; v < images.c / kLanes; ++v) {
      float* const to = write(tile - begin, v);
      winograd::transform<Transform>(
          [&](int i, int j) __attribute__((always_inline)) { return load(pixels[i][j] + v * kLanes); },
          [&](int i, int j, const Lanes& value)
              __attribute__((always_inline)) { store(to + (i * Transform::kTo + j) * point, value); });
    }
  }
}

// The pixels of the tiles [begin, end), from their values at the points.
template <int SIZE>
CCONVNET_CLONES void interpolate_tiles(const Tiles& tiles, int begin, int end, const float* products,
                                       int64_t point, const float* bias, const Images<float>& images) {
  for (int tile = begin; tile < end; ++tile) {
    const int image = tiles.image(tile), top = tiles.top(tile), left = tiles.left(tile);
    const float* const from = products + int64_t{tile - begin} * images.c;
    for (int c = 0; c < images.c; c += kLanes) {
      const Lanes added = bias ? load(bias + c) : Lanes{};
      winograd::transform<Interpolation<kPoints, SIZE>>(
          [&](int i, int j)
              __attribute__((always_inline)) { return load(from + (i * kPoints + j) * point + c); },
          [&](int i, int j, const Lanes& value) __attribute__((always_inline)) {
            if (top + i < images.h && left + j < images.w) {
              store(images.pixel(image, top + i, left + j) + c, value + added);
            }
          });
    }
  }
}

CCONVNET_CLONES void image_tiles_as_rows(const Tiles& tiles, const Images<const float>& images, int pad_h,
                                         int pad_w, int begin, int end, const float* zeros, int64_t point,
                                         float* to) {
  transform_tiles<winograd::Image<kPoints>>(tiles, images, pad_h, pad_w, begin, end, zeros, point,
                                            [&](int row, int v) __attribute__((always_inline)) {
                                              return to + int64_t{row} * images.c + v * kLanes;
                                            });
}

// ---- fprop and dgrad ------------------------------------------------------------------------------------

// A correlation of images with filters that have `groups` groups of channels.
struct Correlation {
  int n, from_h, from_w, from_c, to_h, to_w, to_c, to_pitch, pad_h, pad_w, groups;

  static Correlation fprop(const ConvProblem& o) {
    return {o.n, o.h, o.w, o.c, o.p, o.q, o.k, o.pixel_pitch(), o.pad_h, o.pad_w, o.groups};
  }
  static Correlation dgrad(const ConvProblem& o) {
    return {o.n, o.p, o.q, o.k, o.h, o.w, o.c, o.c, o.r - 1 - o.pad_h, o.s - 1 - o.pad_w, o.groups};
  }
  int depth() const { return from_c / groups; }
  int columns() const { return to_c / groups; }
};

// Vector `item` of all filters at the points: for fprop 16 filters of one channel, for dgrad 16 channels of
// one filter, turned.
template <int TAPS, bool TURNED>
CCONVNET_CLONES void transform_filters(const ConvProblem& problem, const float* w, int64_t begin, int64_t end,
                                       float* to) {
  const int channels = problem.c_per_group(), filters = problem.k_per_group();
  const int depth = TURNED ? filters : channels;
  const ColumnBlocks columns(TURNED ? channels : filters);
  const int64_t point = int64_t{channels} * filters, filter = int64_t{TAPS} * TAPS * channels;
  for (int64_t item = begin; item < end; ++item) {
    const int step = static_cast<int>(item % depth);
    const int v = static_cast<int>(item / depth % columns.vectors);
    const int64_t group = item / depth / columns.vectors;
    float* const own = to + group * kProducts * point + columns.offset(v, step, depth);
    const float* const from =
        w + group * filters * filter + (TURNED ? step * filter + v * kLanes : v * kLanes * filter + step);
    winograd::transform<Evaluation<kPoints, TAPS>>(
        [&](int i, int j) __attribute__((always_inline)) {
          if (TURNED) return load(from + ((TAPS - 1 - i) * TAPS + TAPS - 1 - j) * channels);
          Lanes values;
          for (int lane = 0; lane < kLanes; ++lane) {
            values[lane] = from[lane * filter + (i * TAPS + j) * channels];
          }
          return values;
        },
        [&](int i, int j, const Lanes& value)
            __attribute__((always_inline)) { store(own + (i * kPoints + j) * point, value); });
  }
}

// The tiles that a thread works on at a time: their values at the points stay in its caches.
int tiles_at_once(int channels, int filters) {
  constexpr int kFloats = 1 << 19;
  return std::clamp(kFloats / (kProducts * (channels + filters)) / kAccumulators, 1, 8) * kAccumulators;
}

template <int TAPS, bool TURNED>
void correlate(const ConvProblem& problem, const Correlation& sizes, const float* from, const float* w,
               const float* bias, float* to) {
  constexpr int SIZE = kPoints + 1 - TAPS;
  const Tiles tiles(SIZE, sizes.n, sizes.to_h, sizes.to_w);
  const Images<const float> images = {from, sizes.n, sizes.from_h, sizes.from_w, sizes.from_c};
  const Images<float> results = {to, sizes.n, sizes.to_h, sizes.to_w, sizes.to_c, sizes.to_pitch};
  const ColumnBlocks columns(sizes.columns());
  const int most = tiles_at_once(sizes.from_c, sizes.to_c);
  const int slices = detail::ceil_div(tiles.count, most);
  const int64_t filters_point = int64_t{sizes.depth()} * sizes.columns();
  const int64_t filters_size = filters_point * kProducts * sizes.groups;
  const int64_t image_point = int64_t{most} * sizes.from_c, result_point = int64_t{most} * sizes.to_c;
  const int64_t each = (image_point + result_point) * kProducts;
  const std::vector<float> zeros(sizes.from_c);

  const std::lock_guard<std::mutex> lock(onednn::mutex());
  float* const filters =
      static_cast<float*>(onednn::scratch((filters_size + each * slice_threads(slices)) * sizeof(float)));
  parallel_ranges(int64_t{sizes.groups} * columns.vectors * sizes.depth(), kProducts * kLanes,
                  [&](int, int64_t begin, int64_t end) {
                    transform_filters<TAPS, TURNED>(problem, w, begin, end, filters);
                  });
  parallel_slices(slices, [&](int slice, int thread) {
    float* const image = filters + filters_size + each * thread;
    float* const result = image + image_point * kProducts;
    const int begin = slice * most, end = std::min(begin + most, tiles.count);
    image_tiles_as_rows(tiles, images, sizes.pad_h, sizes.pad_w, begin, end, zeros.data(), image_point,
                        image);
    for (int group = 0; group < sizes.groups; ++group) {
      for (int product = 0; product < kProducts; ++product) {
        const Left left = {image + product * image_point + group * sizes.depth(), sizes.from_c, 1};
        multiply(left, end - begin, filters + (int64_t{group} * kProducts + product) * filters_point, columns,
                 sizes.depth(), false, result + product * result_point + group * sizes.columns(), sizes.to_c);
      }
    }
    interpolate_tiles<SIZE>(tiles, begin, end, result, result_point, bias, results);
  });
}

// ---- wgrad ----------------------------------------------------------------------------------------------

constexpr int kWgradTaps = 3, kWgradSize = 2;  // of filters, and of tiles of dy

CCONVNET_CLONES void image_tiles_as_columns(const Tiles& tiles, const ConvProblem& problem, const float* x,
                                            int begin, int end, int first, int most, const float* zeros,
                                            float* to) {
  const ColumnBlocks columns(problem.c_per_group());
  const int64_t point = int64_t{most} * problem.c, group = int64_t{most} * problem.c_per_group();
  transform_tiles<winograd::Image<kWgradPoints>>(
      tiles, Images<const float>{x, problem.n, problem.h, problem.w, problem.c}, problem.pad_h, problem.pad_w,
      begin, end, zeros, point, [&](int row, int v) __attribute__((always_inline)) {
        return to + v / columns.vectors * group +
               columns.offset(v % columns.vectors, begin + row - first, most);
      });
}

CCONVNET_CLONES void gradient_tiles(const Tiles& tiles, const ConvProblem& problem, const float* dy,
                                    int begin, int end, const float* zeros, int64_t point, int row_length,
                                    float* to) {
  transform_tiles<Evaluation<kWgradPoints, kWgradSize>>(
      tiles, Images<const float>{dy, problem.n, problem.p, problem.q, problem.k}, 0, 0, begin, end, zeros,
      point, [&](int row, int v) __attribute__((always_inline)) {
        return to + int64_t{row} * row_length + v * kLanes;
      });
}

CCONVNET_CLONES void interpolate_filters(const ConvProblem& problem, const float* sums, int begin, int end,
                                         float* dw) {
  const int channels = problem.c_per_group(), filters = problem.k_per_group();
  const int64_t point = int64_t{whole_tiles(filters)} * channels;
  for (int k = begin; k < end; ++k) {
    const float* const from = sums + k / filters * kWgradProducts * point + int64_t{k % filters} * channels;
    float* const to = dw + int64_t{k} * kWgradTaps * kWgradTaps * channels;
    for (int c = 0; c < channels; c += kLanes) {
      winograd::transform<Interpolation<kWgradPoints, kWgradTaps>>(
          [&](int i, int j)
              __attribute__((always_inline)) { return load(from + (i * kWgradPoints + j) * point + c); },
          [&](int i, int j, const Lanes& value)
              __attribute__((always_inline)) { store(to + (i * kWgradTaps + j) * channels + c, value); });
    }
  }
}

void weights_gradient(const ConvProblem& problem, const float* x, const float* dy, float* dw) {
  constexpr int kTilesAtOnce = 256, kTilesOfSlice = 16;
  const Tiles tiles(kWgradSize, problem.n, problem.p, problem.q);
  const int channels = problem.c_per_group(), filters = problem.k_per_group();
  const ColumnBlocks columns(channels);
  // The last tile of a product's rows reads a little more than a row.
  const int row_length = problem.k + kAccumulators;
  const int64_t image_point = int64_t{kTilesAtOnce} * problem.c;
  const int64_t gradient_point = int64_t{kTilesAtOnce} * row_length;
  const int64_t sums_point = int64_t{whole_tiles(filters)} * channels;
  const std::vector<float> zeros(std::max(problem.c, problem.k));

  const std::lock_guard<std::mutex> lock(onednn::mutex());
  float* const image = static_cast<float*>(onednn::scratch(
      (image_point + gradient_point + sums_point * problem.groups) * kWgradProducts * sizeof(float)));
  float* const gradient = image + image_point * kWgradProducts;
  float* const sums = gradient + gradient_point * kWgradProducts;
  for (int first = 0; first < tiles.count; first += kTilesAtOnce) {
    const int present = std::min(kTilesAtOnce, tiles.count - first);
    parallel_slices(detail::ceil_div(present, kTilesOfSlice), [&](int slice, int) {
      const int begin = first + slice * kTilesOfSlice, end = std::min(begin + kTilesOfSlice, first + present);
      image_tiles_as_columns(tiles, problem, x, begin, end, first, present, zeros.data(), image);
      gradient_tiles(tiles, problem, dy, begin, end, zeros.data(), gradient_point, row_length,
                     gradient + int64_t{begin - first} * row_length);
    });
    parallel_slices(problem.groups * kWgradProducts, [&](int slice, int) {
      const int group = slice / kWgradProducts, product = slice % kWgradProducts;
      const Left left = {gradient + product * gradient_point + group * filters, 1, row_length};
      multiply(left, filters, image + (int64_t{product} * problem.groups + group) * present * channels,
               columns, present, first > 0, sums + slice * sums_point, channels);
    });
  }
  parallel_ranges(problem.k, int64_t{kWgradProducts} * channels, [&](int, int64_t begin, int64_t end) {
    interpolate_filters(problem, sums, static_cast<int>(begin), static_cast<int>(end), dw);
  });
}

// ---- rows of the selection tables -----------------------------------------------------------------------

bool supports(const ConvProblem& problem) {
  return problem.precision != Precision::bf16 && (problem.r == 3 || problem.r == 5) &&
         problem.s == problem.r && problem.stride_h == 1 && problem.stride_w == 1 &&
         problem.dilation_h == 1 && problem.dilation_w == 1 && problem.c_per_group() % kLanes == 0 &&
         problem.k_per_group() % kLanes == 0;
}

bool supports_wgrad(const ConvProblem& problem) {
  return problem.r == kWgradTaps && supports(problem);
}

// With fewer channels or filters the transforms take longer than the products that they save. The choice does
// not depend on the batch, so that an image has the same results in any batch.
bool prefers(const ConvProblem& problem) {
  constexpr int kLeast = 48;
  return problem.c_per_group() >= kLeast && problem.k_per_group() >= kLeast && !strict() &&
         dnnl::get_effective_cpu_isa() >= dnnl::cpu_isa::avx512_core;
}

void launch_fprop(const ConvProblem& problem, const FpropArguments& args, Stream stream) {
  const auto run = problem.r == 3 ? correlate<3, false> : correlate<5, false>;
  float* const y = static_cast<float*>(args.y) + problem.y_first;
  run(problem, Correlation::fprop(problem), static_cast<const float*>(args.x),
      static_cast<const float*>(args.w), args.epilogue.bias, y);
  if (problem.is_placed()) {
    const int64_t pitch = problem.y_pitch;
    if (!args.epilogue.relu) return;
    parallel_ranges(problem.outputs() / problem.k, problem.k, [&](int, int64_t begin, int64_t end) {
      place_rows(y + begin * pitch, pitch, end - begin, problem.k, true, y + begin * pitch, pitch);
    });
    return;
  }
  apply_after_bias(args.epilogue, problem.y_count(), y, stream);
  apply(args.statistics, problem, y, args.sums, stream);
}

void launch_dgrad(const ConvProblem& problem, const DgradArguments& args, Stream stream) {
  const auto run = problem.r == 3 ? correlate<3, true> : correlate<5, true>;
  run(problem, Correlation::dgrad(problem), static_cast<const float*>(args.dy),
      static_cast<const float*>(args.w), nullptr, static_cast<float*>(args.dx));
  apply(args.epilogue, problem.precision, pixels_of(problem), args.dx, args.sums, stream);
}

void launch_wgrad(const ConvProblem& problem, const WgradArguments& args, Stream stream) {
  weights_gradient(problem, static_cast<const float*>(args.x), static_cast<const float*>(args.dy), args.dw);
  if (args.update) sgd_update(*args.update, args.dw, stream);
}

}  // namespace

bool strict() {
  const char* const wanted = std::getenv("CCONVNET_STRICT");
  return wanted && std::string(wanted) == "1";
}

FpropTable::Row winograd_fprop_row() {
  return {"winograd", false, supports, prefers, no_workspace, launch_fprop};
}

DgradTable::Row winograd_dgrad_row() {
  return {"winograd", false, supports, prefers, no_workspace, launch_dgrad};
}

WgradTable::Row winograd_wgrad_row() {
  return {"winograd", false, supports_wgrad, prefers, no_workspace, launch_wgrad};
}

}  // namespace cconvnet
