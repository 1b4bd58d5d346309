// The outputs of a matrix product, which apply the epilogue on the way to memory. They serve the kernel that
// multiplies and, where the product is split along k, split_reduce.
//
// An output is a class that a launcher fills and a kernel takes by value, with
//   bool vectors;                        whether groups of four neighbouring elements, and of sums, may be
//                                        written at once
//   auto writer() const;                 to be called once by each thread, before it writes
// Its writer has, for WIDTH neighbouring elements,
//   template <int WIDTH> auto columns(uint32_t channel) const;
//                                        all that it reads of the channels from `channel` on
//   template <int WIDTH> auto read(uint32_t i) const;
//                                        all that it reads of elements i .. i+WIDTH-1
//   Vector<WIDTH> write(uint32_t i, columns, read, const Vector<WIDTH>& sums) const;
//                                        writes them, given both, and returns them: as written, if the
//                                        output is reduced
// So a thread reads of a column once for all its rows, and starts the reads of several elements before it
// writes the first.
//
// An output also has
//   template <class Product> using Reduction;
//                                        what it reduces groups of kSumRows rows to, column by column; of
//                                        NoReduction nothing
// and, unless that is nothing,
//   float* sums;                         a matrix of floats with a row for each group, or null
// and what the reduction wants besides.
// The order is that of column_sums.cuh and column_pairs.cuh. Tiles of tensor cores have whole strands in each
// warp; others reduce nothing.
#pragma once

#include "column_pairs.cuh"
#include "dropout_mask.cuh"
#include "gemm/gemm_tile.cuh"
#include "neuron.h"
#include "sgd.cuh"

namespace cconvnet {

struct Nothing {};  // what a writer reads that reads nothing

// ---- what rows are reduced to ---------------------------------------------------------------------------

// A reduction is a thread's share of that of one group of rows.
//   add(i, l, j, written)  takes the j-th columns of the thread's i-th row, the l-th of those that it reads at once
//   finish(first, m, store)
//                          calls store(j, sums, values) for each j, in one lane for each, with the matrix that
//                          receives the values; and starts anew. The thread's rows begin with `first`, the
//                          group's with row m of the output.
template <class Product, class Output>
class NoReduction {
 public:
  __device__ __forceinline__ NoReduction(const Product&, const Output&) {}
  template <class Written>
  __device__ __forceinline__ void add(int, int, int, const Written&) {}
};

// The values of the lane that is `distance` away.
__device__ __forceinline__ Vector<kGroup> from_lane(Vector<kGroup> values, int distance) {
#pragma unroll
  for (float& value : values.lane) value = __shfl_xor_sync(kFullWarp, value, distance);
  return values;
}

// Calls body(distance) for the distances at which the lanes of a group's strands are merged.
template <class Product, class Body>
__device__ __forceinline__ void for_lanes_of_strands(const Body& body) {
#pragma unroll
  for (int distance = kWarp / 2; distance >= Product::ROW_LANES; distance /= 2) body(distance);
}

template <class Product, class Output>
class ColumnSums {
 public:
  __device__ __forceinline__ ColumnSums(const Product&, const Output& output) : sums_(output.sums) {}

  __device__ __forceinline__ void add(int, int l, int j, const Vector<kGroup>& value) {
    add_to(strand_[l % Product::STRANDS][j], value);
  }

  template <class Store>
  __device__ __forceinline__ void finish(int, uint32_t, const Store& store) {
#pragma unroll
    for (int j = 0; j < Product::GROUPS; ++j) {
#pragma unroll
      for (int distance = Product::STRANDS / 2; distance > 0; distance /= 2) {
#pragma unroll
        for (int s = 0; s < distance; ++s) add_to(strand_[s][j], strand_[s + distance][j]);
      }
      Vector<kGroup> sum = strand_[0][j];
      for_lanes_of_strands<Product>([&](int distance) { add_to(sum, from_lane(sum, distance)); });
      if (threadIdx.x % kWarp < Product::ROW_LANES) store(j, sums_, sum);
#pragma unroll
      for (int s = 0; s < Product::STRANDS; ++s) strand_[s][j] = zeros<kGroup>();
    }
  }

 private:
  float* sums_;
  Vector<kGroup> strand_[Product::STRANDS][Product::GROUPS] = {};
};

// Mean values, and sums of squared distances from them. The rows of a strand are needed twice, so they stay
// where the product was.
template <class Product, class Output>
class ColumnMoments {
 public:
  __device__ __forceinline__ ColumnMoments(const Product& product, const Output& output)
      : product_(product), output_(output) {}

  __device__ __forceinline__ void add(int i, int, int j, const Vector<kGroup>& value) {
    product_.keep(i, j, value);
  }

  // Where all rows count, the compiler knows the weights of all merges.
  template <class Store>
  __device__ __forceinline__ void finish(int first, uint32_t m, const Store& store) const {
    const int rows = output_.counted - static_cast<int>(m);
    if (rows >= kSumRows) {
      finish<true>(first, kSumRows, store);
    } else {
      finish<false>(first, rows, store);
    }
  }

 private:
  template <bool WHOLE, class Store>
  __device__ __forceinline__ void finish(int first, int rows, const Store& store) const {
    const int lane_row = threadIdx.x % kWarp / Product::ROW_LANES;
#pragma unroll
    for (int j = 0; j < Product::GROUPS; ++j) {
      Pair<kGroup> strand[Product::STRANDS];
      int of[Product::STRANDS];
#pragma unroll
      for (int s = 0; s < Product::STRANDS; ++s) {
        const int left = rows - lane_row - s * (kSumStrands / Product::STRANDS);
        of[s] = WHOLE ? kStrandRows : min(max(left + kSumStrands - 1, 0) / kSumStrands, kStrandRows);
        Vector<kGroup> values[kStrandRows];
#pragma unroll
        for (int l = 0; l < kStrandRows; ++l) values[l] = product_.sums(first + s + l * Product::STRANDS, j);
        strand[s] = moments_of<kGroup>(of[s], [&](int l) { return values[l]; });
      }
#pragma unroll
      for (int distance = Product::STRANDS / 2; distance > 0; distance /= 2) {
#pragma unroll
        for (int s = 0; s < distance; ++s) {
          merge_into<Moments>(strand[s], of[s], strand[s + distance], of[s + distance]);
        }
      }
      // The upper lanes merge in the wrong order, but do not store.
      for_lanes_of_strands<Product>([&](int distance) {
        const Pair<kGroup> other = {from_lane(strand[0].first, distance),
                                    from_lane(strand[0].second, distance)};
        const int of_other = WHOLE ? of[0] : __shfl_xor_sync(kFullWarp, of[0], distance);
        merge_into<Moments>(strand[0], of[0], other, of_other);
      });
      if (threadIdx.x % kWarp < Product::ROW_LANES) {
        store(j, output_.sums, strand[0].first);
        store(j, output_.sums + output_.sums_count, strand[0].second);
      }
    }
  }

  const Product& product_;
  const Output& output_;
};

// ---- outputs --------------------------------------------------------------------------------------------

// The sums as they are, each rounded to a T.
template <class T>
struct PlainOutput {
  template <class Product>
  using Reduction = NoReduction<Product, PlainOutput>;
  T* y;
  bool vectors;

  __device__ __forceinline__ const PlainOutput& writer() const { return *this; }
  __device__ __forceinline__ const PlainOutput& straight() const { return *this; }

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
  template <class Product>
  using Reduction = NoReduction<Product, EpilogueOutput>;
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

  // Without dropout, and without branches: sums are never -0, so adding a bias of 0 changes nothing.
  struct Straight {
    T* y;
    const float* bias;
    bool relu;

    template <int WIDTH>
    __device__ __forceinline__ Vector<WIDTH> columns(uint32_t channel) const {
      return bias ? load<WIDTH>(bias + channel) : zeros<WIDTH>();
    }
    template <int WIDTH>
    __device__ __forceinline__ Nothing read(uint32_t) const {
      return {};
    }
    template <int WIDTH>
    __device__ __forceinline__ void write(uint32_t i, const Vector<WIDTH>& biases, Nothing,
                                          Vector<WIDTH> sums) const {
#pragma unroll
      for (int j = 0; j < WIDTH; ++j) {
        const float sum = sums.lane[j] + biases.lane[j];
        sums.lane[j] = relu && sum <= 0.0f ? 0.0f : sum;
      }
      store(y + i, sums);
    }
  };
  __device__ __forceinline__ bool is_straight() const { return vectors && !drops_; }
  __device__ __forceinline__ Straight straight() const { return {y_, bias_, relu_}; }

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
    return rounded_to<T>(sums);
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

// The same with the moments of its columns, of the first `counted` rows.
template <class T>
class MeasuredOutput : public EpilogueOutput<T> {
 public:
  template <class Product>
  using Reduction = ColumnMoments<Product, MeasuredOutput>;
  float* sums;     // the mean values; the squares are behind them
  int sums_count;  // elements of each
  int counted;

  MeasuredOutput(const EpilogueOutput<T>& output, float* sums, int sums_count, int counted)
      : EpilogueOutput<T>(output), sums(sums), sums_count(sums_count), counted(counted) {}
};

// The gradient of an input after an InputEpilogue, whose db follows from `sums`.
template <class T>
class InputGradientOutput {
 public:
  template <class Product>
  using Reduction = ColumnSums<Product, InputGradientOutput>;
  bool vectors;
  float* sums;

  InputGradientOutput(const InputEpilogue& epilogue, T* dx, bool vectors, float* sums)
      : vectors(vectors && aligned(epilogue.masked_by)),
        sums(sums),
        dx_(dx),
        masked_by_(static_cast<const T*>(epilogue.masked_by)),
        scale_(epilogue.scale) {}

  __device__ __forceinline__ const InputGradientOutput& writer() const { return *this; }
  __device__ __forceinline__ bool is_straight() const { return vectors; }
  __device__ __forceinline__ const InputGradientOutput& straight() const { return *this; }

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
  template <class Product>
  using Reduction = NoReduction<Product, GradientOutput>;
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

// ---- tiles -----------------------------------------------------------------------------------------------

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
//   REDUCES                         whether rows can be reduced, by the rest:
//   keep(i, j, values)              replaces the sums
//   MY_SUM_ROWS                     how many of kSumRows rows a thread has
//   STRANDS                         how many strands a thread has of them, in turn
//   ROW_LANES                       how many lanes are beside each other in a row of the tile
//   first_row(i)                    the tile's row where the warp's i-th rows begin
// `layout.row(m)` returns the output's index where row m of C begins; column 0 of C is channel first_channel.
// For an output that is reduced, `layout.sums(m, channel)` returns the index of what the rows from row m on are
// reduced to, and kOutside if there are none.
template <class Product, class Output, class Layout>
__device__ __forceinline__ void store_tile(const Product& product, const Output& output, const Layout& layout,
                                           uint32_t first_m, uint32_t first_n, uint32_t first_channel,
                                           int gemm_m, int gemm_n) {
  const auto offset = product.offsets(layout, first_m, gemm_m);
  const auto& writer = output.writer();
  const auto column = [&](int j) { return first_n + product.column(j); };
  const auto columns_left = [&](int j) { return gemm_n - static_cast<int>(column(j)); };
  using Nowhere = NoReduction<Product, Output>;
  using Reduction =
      std::conditional_t<Product::REDUCES, typename Output::template Reduction<Product>, Nowhere>;
  Reduction reduction(product, output);
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
          reduction.add(i + l, l, j, writer.write(row[l] + column(j), columns[j], read[l][j], sums));
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
        reduction.add(i + l, l, j, written);
      }
    }
    if constexpr (!std::is_same_v<Reduction, Nowhere>) {
      static_assert(Product::ROWS % Product::MY_SUM_ROWS == 0, "a warp must have all rows of a group");
      if (output.sums && (i + Product::AHEAD) % Product::MY_SUM_ROWS == 0) {
        const int first = i + Product::AHEAD - Product::MY_SUM_ROWS;
        const uint32_t m = first_m + product.first_row(first);
        reduction.finish(first, m, [&](int j, float* sums, const Vector<kGroup>& values) {
          const uint32_t to = layout.sums(m, first_channel + column(j));
          if (to == kOutside || columns_left(j) <= 0) return;
          if (output.vectors) {
            cconvnet::store(sums + to, values);
            return;
          }
#pragma unroll
          for (int lane = 0; lane < kGroup; ++lane) {
            if (lane < columns_left(j)) sums[to + lane] = values.lane[lane];
          }
        });
      }
    }
  }
}

}  // namespace cconvnet
