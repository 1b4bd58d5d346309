// The outputs of a matrix product, which apply the epilogue on the way to memory. They serve the kernel that
// multiplies and, where the product is split along k, split_reduce.
//
// An output is a class that a launcher fills and a kernel takes by value, with
//   bool vectors;                        whether groups of four neighbouring elements may be written at once
//   auto writer() const;                 to be called once by each thread, before it writes
// Its writer has, for WIDTH neighbouring elements,
//   template <int WIDTH> auto columns(uint32_t channel) const;
//                                        all that it reads of the channels from `channel` on
//   template <int WIDTH> auto read(uint32_t i) const;
//                                        all that it reads of elements i .. i+WIDTH-1
//   Vector<WIDTH> write(uint32_t i, columns, read, const Vector<WIDTH>& sums) const;
//                                        writes them, given both, and returns them: as written, if the
//                                        output SUMS
// So a thread reads of a column once for all its rows, and starts the reads of several elements before it
// writes the first.
//
// An output with SUMS also has the sums of its columns over groups of kSumRows rows, a matrix of floats, with
//   static constexpr bool SUMS;          whether it can have them
//   float* sums;                         the matrix, or null
// The order of additions is that of column_sums.cuh. Tiles of tensor cores have whole strands in each warp;
// others have no sums.
#pragma once

#include "column_sums.cuh"
#include "dropout_mask.cuh"
#include "gemm/gemm_tile.cuh"
#include "neuron.h"
#include "sgd.cuh"

namespace cconvnet {

struct Nothing {};  // what a writer reads that reads nothing

// The sums as they are, each rounded to a T.
template <class T>
struct PlainOutput {
  static constexpr bool SUMS = false;
  T* y;
  bool vectors;

  __device__ __forceinline__ const PlainOutput& writer() const { return *this; }

  template <int WIDTH>
  __device__ __forceinline__ Nothing columns(uint32_t) const {
    return {};
  }
  template <int WIDTH>
  __device__ __forceinline__ Nothing read(uint32_t) const {
    return {};
  }
  template <int WIDTH>
  __device__ __forceinline__ Vector<WIDTH> write(uint32_t i, Nothing, Nothing,
                                                 const Vector<WIDTH>& sums) const {
    store(y + i, sums);
    return sums;
  }
};

// The same after an Epilogue. Single elements are not dropped, since each would need a Philox call of its
// own: then `drops` is false, and after() applies the dropout.
template <class T>
class EpilogueOutput {
 public:
  static constexpr bool SUMS = false;
  bool vectors;

  EpilogueOutput(const Epilogue& epilogue, T* y, bool vectors)
      : vectors(vectors && aligned(epilogue.bias)),
        y_(y),
        bias_(epilogue.bias),
        relu_(epilogue.relu),
        drops_(epilogue.dropout && this->vectors && DropoutMask::whole_draws(*epilogue.dropout)),
        mask_(drops_ ? DropoutMask(*epilogue.dropout, epilogue.step) : DropoutMask()) {}

  // To be called after the launch that writes.
  void after(const Epilogue& epilogue, Stream stream) const {
    if (epilogue.dropout && !drops_) dropout(*epilogue.dropout, epilogue.step, y_, y_, stream);
  }

  __device__ __forceinline__ const EpilogueOutput& writer() const { return *this; }

  // The biases.
  template <int WIDTH>
  __device__ __forceinline__ Vector<WIDTH> columns(uint32_t channel) const {
    return bias_ ? load<WIDTH>(bias_ + channel) : zeros<WIDTH>();
  }
  template <int WIDTH>
  __device__ __forceinline__ Nothing read(uint32_t) const {
    return {};
  }
  template <int WIDTH>
  __device__ __forceinline__ Vector<WIDTH> write(uint32_t i, const Vector<WIDTH>& bias, Nothing,
                                                 Vector<WIDTH> sums) const {
#pragma unroll
    for (int j = 0; j < WIDTH; ++j) {
      if (bias_) sums.lane[j] += bias.lane[j];
      if (relu_) sums.lane[j] = relu(sums.lane[j]);
    }
    if constexpr (WIDTH % kGroup == 0) {
      if (drops_) drop(i, sums);
    }
    store(y_ + i, sums);
    return sums;
  }

 private:
  template <int WIDTH>
  __device__ __forceinline__ void drop(uint32_t i, Vector<WIDTH>& values) const {
#pragma unroll
    for (int j = 0; j < WIDTH; j += kGroup) {
      Vector<kGroup> group;
      // The values that a separate dropout would read.
#pragma unroll
      for (int l = 0; l < kGroup; ++l) group.lane[l] = rounded_to<T>(values.lane[j + l]);
      group = mask_.apply(group, static_cast<int>(i) + j);
#pragma unroll
      for (int l = 0; l < kGroup; ++l) values.lane[j + l] = group.lane[l];
    }
  }

  T* y_;
  const float* bias_;  // null, or one for each channel
  bool relu_, drops_;
  DropoutMask mask_;
};

// The gradient of an input after an InputEpilogue, whose db follows from `sums`.
template <class T>
class InputGradientOutput {
 public:
  static constexpr bool SUMS = true;
  bool vectors;
  float* sums;

  InputGradientOutput(const InputEpilogue& epilogue, T* dx, bool vectors, float* sums)
      : vectors(vectors && aligned(epilogue.masked_by)),
        sums(sums),
        dx_(dx),
        masked_by_(static_cast<const T*>(epilogue.masked_by)),
        scale_(epilogue.scale) {}

  __device__ __forceinline__ const InputGradientOutput& writer() const { return *this; }

  // The values as they are, written elsewhere.
  __device__ __forceinline__ InputGradientOutput plain(T* to) const {
    InputGradientOutput result = *this;
    result.sums = nullptr;
    result.dx_ = to;
    result.masked_by_ = nullptr;
    return result;
  }

  template <int WIDTH>
  __device__ __forceinline__ Nothing columns(uint32_t) const {
    return {};
  }
  // The mask.
  template <int WIDTH>
  __device__ __forceinline__ Vector<WIDTH> read(uint32_t i) const {
    return masked_by_ ? load<WIDTH>(masked_by_ + i) : zeros<WIDTH>();
  }
  template <int WIDTH>
  __device__ __forceinline__ Vector<WIDTH> write(uint32_t i, Nothing, const Vector<WIDTH>& mask,
                                                 Vector<WIDTH> value) const {
    value = rounded_to<T>(value);
    if (masked_by_) value = masked<T>(value, mask, scale_);
    store(dx_ + i, value);
    return value;
  }

 private:
  T* dx_;
  const T* masked_by_;  // or null
  float scale_;
};

// The sums are gradients of weights: stored, or used at once to update the weights.
class GradientOutput {
 public:
  static constexpr bool SUMS = false;
  bool vectors;

  // `update` may be null.
  GradientOutput(const Update* update, float* dw, bool vectors)
      : vectors(vectors && (!update || SgdStep(*update).aligned())),
        dw_(dw),
        updates_(update != nullptr),
        step_(update ? *update : Update{}) {}

  struct Writer {
    const GradientOutput& output;
    bool writes;
    SgdRates rates;

    template <int WIDTH>
    __device__ __forceinline__ Nothing columns(uint32_t) const {
      return {};
    }
    // The weights and their steps, if they are updated.
    template <int WIDTH>
    __device__ __forceinline__ SgdState<WIDTH> read(uint32_t i) const {
      return output.updates_ && writes ? output.step_.template read<WIDTH>(i) : SgdState<WIDTH>{};
    }
    template <int WIDTH>
    __device__ __forceinline__ Vector<WIDTH> write(uint32_t i, Nothing, const SgdState<WIDTH>& state,
                                                   const Vector<WIDTH>& sums) const {
      if (!output.updates_) {
        store(output.dw_ + i, sums);
      } else if (writes) {
        output.step_.apply(rates, i, state, sums);
      }
      return sums;
    }
  };

  __device__ __forceinline__ Writer writer() const { return {*this, !step_.halted(), step_.rates()}; }

 private:
  float* dw_;
  bool updates_;
  SgdStep step_;
};

// A thread's share of the sums of columns over one group of rows; without SUMS nothing.
template <class Product, bool SUMS>
class ColumnSums {
 public:
  template <class Written>
  __device__ __forceinline__ void add(int, int, const Written&) {}
};

template <class Product>
class ColumnSums<Product, true> {
 public:
  // Adds the thread's l-th row of those that it reads at once.
  __device__ __forceinline__ void add(int l, int j, const Vector<kGroup>& value) {
    add_to(strand_[l % Product::STRANDS][j], value);
  }

  // Calls store(j, sum) for each group of columns, in one lane for each, and starts anew.
  template <class Store>
  __device__ __forceinline__ void finish(const Store& store) {
#pragma unroll
    for (int j = 0; j < Product::GROUPS; ++j) {
#pragma unroll
      for (int distance = Product::STRANDS / 2; distance > 0; distance /= 2) {
#pragma unroll
        for (int s = 0; s < distance; ++s) add_to(strand_[s][j], strand_[s + distance][j]);
      }
      Vector<kGroup> sum = strand_[0][j];
#pragma unroll
      for (int distance = 16; distance >= Product::ROW_LANES; distance /= 2) {
#pragma unroll
        for (int part = 0; part < kGroup; ++part) {
          sum.lane[part] += __shfl_xor_sync(kFullWarp, sum.lane[part], distance);
        }
      }
      if (threadIdx.x % 32 < Product::ROW_LANES) store(j, sum);
#pragma unroll
      for (int s = 0; s < Product::STRANDS; ++s) strand_[s][j] = zeros<kGroup>();
    }
  }

 private:
  Vector<kGroup> strand_[Product::STRANDS][Product::GROUPS] = {};
};

// Writes elements i .. i+WIDTH-1, of channels from `channel` on, where a thread has no others to write.
template <int WIDTH, class Writer>
__device__ __forceinline__ auto write_alone(const Writer& writer, uint32_t i, uint32_t channel,
                                            const Vector<WIDTH>& sums) {
  return writer.write(i, writer.template columns<WIDTH>(channel), writer.template read<WIDTH>(i), sums);
}

// Writes one block's tile of C. `product` holds its threads' shares of the sums, in groups of kGroup columns:
//   ROWS, GROUPS                    how many rows and groups of each row a thread has
//   AHEAD                           rows whose reads start before the first of them is written
//   UNROLLED                        the factor by which loops over the rows are unrolled
//   offsets(layout, first_m, gemm_m)
//                                   a function of i: the output's index where the thread's i-th row begins,
//                                   and kOutside if it is beyond the last. All threads call it together.
//   column(j)                       the tile's column where the thread's j-th group begins
//   sums(i, j)                      the j-th group of the i-th row
//   SUMS                            whether it can sum columns, by the rest:
//   MY_SUM_ROWS                     how many of kSumRows rows a thread has
//   STRANDS                         how many strands a thread has of them, in turn
//   ROW_LANES                       how many lanes are beside each other in a row of the tile
//   first_row(i)                    the tile's row where the warp's i-th rows begin
// `layout.row(m)` returns the output's index where row m of C begins; column 0 of C is channel first_channel.
// `layout.sums(m, channel)`, for an output that SUMS, returns the index of the sum of the rows from row m on,
// and kOutside if there are none.
template <class Product, class Output, class Layout>
__device__ __forceinline__ void store_tile(const Product& product, const Output& output, const Layout& layout,
                                           uint32_t first_m, uint32_t first_n, uint32_t first_channel,
                                           int gemm_m, int gemm_n) {
  const auto offset = product.offsets(layout, first_m, gemm_m);
  const auto& writer = output.writer();
  const auto column = [&](int j) { return first_n + product.column(j); };
  const auto columns_left = [&](int j) { return gemm_n - static_cast<int>(column(j)); };
  constexpr bool SUMS = Output::SUMS && Product::SUMS;
  ColumnSums<Product, SUMS> column_sums;
  decltype(writer.template columns<kGroup>(0)) columns[Product::GROUPS] = {};
#pragma unroll
  for (int j = 0; j < Product::GROUPS; ++j) {
    if (output.vectors && columns_left(j) > 0) {
      columns[j] = writer.template columns<kGroup>(first_channel + column(j));
    }
  }
#pragma unroll Product::UNROLLED
  for (int i = 0; i < Product::ROWS; i += Product::AHEAD) {
    uint32_t row[Product::AHEAD];
    decltype(writer.template read<kGroup>(0)) read[Product::AHEAD][Product::GROUPS] = {};
#pragma unroll
    for (int l = 0; l < Product::AHEAD; ++l) {
      row[l] = offset(i + l);
      if (row[l] == kOutside || !output.vectors) continue;
#pragma unroll
      for (int j = 0; j < Product::GROUPS; ++j) {
        if (columns_left(j) > 0) read[l][j] = writer.template read<kGroup>(row[l] + column(j));
      }
    }
#pragma unroll
    for (int l = 0; l < Product::AHEAD; ++l) {
      if (row[l] == kOutside) continue;
#pragma unroll
      for (int j = 0; j < Product::GROUPS; ++j) {
        const Vector<kGroup> sums = product.sums(i + l, j);
        if (output.vectors) {
          if (columns_left(j) <= 0) continue;
          column_sums.add(l, j, writer.write(row[l] + column(j), columns[j], read[l][j], sums));
          continue;
        }
        Vector<kGroup> written = zeros<kGroup>();
#pragma unroll
        for (int part = 0; part < kGroup; ++part) {
          const uint32_t n = column(j) + part;
          if (part < columns_left(j)) {
            written.lane[part] =
                write_alone(writer, row[l] + n, first_channel + n, Vector<1>{{sums.lane[part]}}).lane[0];
          }
        }
        column_sums.add(l, j, written);
      }
    }
    if constexpr (SUMS) {
      if (output.sums && (i + Product::AHEAD) % Product::MY_SUM_ROWS == 0) {
        const uint32_t m = first_m + product.first_row(i + Product::AHEAD - Product::MY_SUM_ROWS);
        column_sums.finish([&](int j, const Vector<kGroup>& sum) {
#pragma unroll
          for (int part = 0; part < kGroup; ++part) {
            if (part >= columns_left(j)) continue;
            const uint32_t to = layout.sums(m, first_channel + column(j) + part);
            if (to != kOutside) output.sums[to] = sum.lane[part];
          }
        });
      }
    }
  }
}

}  // namespace cconvnet
