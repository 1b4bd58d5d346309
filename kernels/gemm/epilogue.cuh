// The outputs of a matrix product, which apply the epilogue on the way to memory. They serve the kernel that
// multiplies and, where the product is split along k, split_reduce.
//
// An output is a class that a launcher fills and a kernel takes by value, with
//   bool vectors;                        whether groups of four neighbouring elements may be written at once
//   auto writer() const;                 to be called once by each thread, before it writes
// Its writer has
//   template <int WIDTH> void write(uint32_t i, uint32_t channel, const Vector<WIDTH>& sums) const;
//                                        writes elements i .. i+WIDTH-1, of channels from `channel` on
#pragma once

#include "dropout_mask.cuh"
#include "neuron.h"
#include "sgd.cuh"

namespace cconvnet {

constexpr int kGroup = 4;  // elements that are written at once: one Philox call's, and 16 bytes of floats

// The sums as they are, each rounded to a T.
template <class T>
struct PlainOutput {
  T* y;
  bool vectors;

  __device__ __forceinline__ const PlainOutput& writer() const { return *this; }

  template <int WIDTH>
  __device__ __forceinline__ void write(uint32_t i, uint32_t, const Vector<WIDTH>& sums) const {
    store(y + i, sums);
  }
};

// The same after an Epilogue. Single elements are not dropped, since each would need a Philox call of its
// own: then `drops` is false, and after() applies the dropout.
template <class T>
class EpilogueOutput {
 public:
  bool vectors;

  EpilogueOutput(const Epilogue& epilogue, T* y, bool vectors)
      : vectors(vectors),
        y_(y),
        bias_(epilogue.bias),
        relu_(epilogue.relu),
        drops_(epilogue.dropout && vectors && DropoutMask::whole_draws(*epilogue.dropout)),
        mask_(drops_ ? DropoutMask(*epilogue.dropout, epilogue.step) : DropoutMask()) {}

  // To be called after the launch that writes.
  void after(const Epilogue& epilogue, Stream stream) const {
    if (epilogue.dropout && !drops_) dropout(*epilogue.dropout, epilogue.step, y_, y_, stream);
  }

  __device__ __forceinline__ const EpilogueOutput& writer() const { return *this; }

  template <int WIDTH>
  __device__ __forceinline__ void write(uint32_t i, uint32_t channel, Vector<WIDTH> sums) const {
#pragma unroll
    for (int j = 0; j < WIDTH; ++j) {
      if (bias_) sums.lane[j] += bias_[channel + j];
      if (relu_) sums.lane[j] = relu(sums.lane[j]);
    }
    if constexpr (WIDTH % kGroup == 0) {
      if (drops_) drop(i, sums);
    }
    store(y_ + i, sums);
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

// The sums are gradients of weights: stored, or used at once to update the weights.
class GradientOutput {
 public:
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
    __device__ __forceinline__ void write(uint32_t i, uint32_t, const Vector<WIDTH>& sums) const {
      if (!output.updates_) {
        store(output.dw_ + i, sums);
      } else if (writes) {
        output.step_.apply(rates, i, sums);
      }
    }
  };

  __device__ __forceinline__ Writer writer() const { return {*this, !step_.halted(), step_.rates()}; }

 private:
  float* dw_;
  bool updates_;
  SgdStep step_;
};

// Writes one block's tile of C. `product` holds its threads' shares of the sums: row(i) is the tile's row of
// the thread's i-th row of outputs, column(j) the tile's column where its j-th group of them begins.
// `layout.row(m)` returns the output's index where row m of C begins; column 0 of C is channel first_channel.
template <class Product, class Output, class Layout>
__device__ __forceinline__ void store_tile(const Product& product, const Output& output, const Layout& layout,
                                           uint32_t first_m, uint32_t first_n, uint32_t first_channel,
                                           int gemm_m, int gemm_n) {
  const auto& writer = output.writer();
  const int rows = gemm_m - static_cast<int>(first_m);
#pragma unroll
  for (int i = 0; i < Product::ROWS; ++i) {
    if (product.row(i) >= rows) continue;
    const uint32_t row = layout.row(first_m + product.row(i));
#pragma unroll
    for (int j = 0; j < Product::GROUPS; ++j) {
      const uint32_t n = first_n + product.column(j);
      const int columns = gemm_n - static_cast<int>(n);
      const Vector<Product::WIDTH> sums = product.sums(i, j);
      if (output.vectors) {
        if (columns > 0) writer.write(row + n, first_channel + n, sums);
      } else {
#pragma unroll
        for (int l = 0; l < Product::WIDTH; ++l) {
          if (l < columns) writer.write(row + n + l, first_channel + n + l, Vector<1>{{sums.lane[l]}});
        }
      }
    }
  }
}

}  // namespace cconvnet
