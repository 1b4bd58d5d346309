// Products of a warp group, four neighbouring warps, whose factors are matrices in shared memory (wgmma).
//
// They are asynchronous. From the start of a product until it is waited for, its sums, in registers, are NaN. The
// factors are read at once in forward order, in others only at the wait: so memory that is used again too early shows.
// Each warp computes its own 16 of the 64 rows, and the four must start the same products.
#pragma once

#include <cstring>
#include <vector>

#include "core/bfloat16.h"
#include "core/tensor_map.h"
#include "machine.h"

namespace cconvnet::emulator {

// A matrix in shared memory as PTX's matrix descriptor says it (PTX ISA 8.5, "Matrix Descriptor Format", and the
// layouts of CUTLASS's mma_traits_sm90_gmma.hpp): row i is of M or N. Units are bytes.
class FactorView {
 public:
  FactorView(const Site& site, uint64_t descriptor, bool along_k, int element_bytes)
      : site_(site), along_k_(along_k), element_bytes_(element_bytes) {
    start_ = static_cast<uint32_t>(descriptor & 0x3fff) << 4;
    leading_ = static_cast<uint32_t>(descriptor >> 16 & 0x3fff) << 4;
    stride_ = static_cast<uint32_t>(descriptor >> 32 & 0x3fff) << 4;
    const unsigned mode = descriptor >> 62;  // 1: 128 bytes, 2: 64, 3: 32
    swizzle_ = mode == 0 ? Swizzle::none : static_cast<Swizzle>(4 - mode);
    if (descriptor & 0x3fffull << 48 || descriptor & 0xc000c000c000ull) {
      machine.fail<KernelError>(site, "a matrix descriptor has bits that must be 0");
    }
    if (swizzle_ != Swizzle::none && start_ % pattern_bytes(swizzle_) >= 128) {
      machine.fail<KernelError>(site, "a matrix begins within a pattern of its swizzle");
    }
  }

  const char* element(int i, int k) const {
    const int per_chunk = 16 / element_bytes_, chunks = line_bytes(swizzle_) / 16;
    const int along = along_k_ ? k : i, across = along_k_ ? i : k;
    uint32_t offset =
        static_cast<uint32_t>(along % per_chunk * element_bytes_ + across % 8 * line_bytes(swizzle_));
    if (swizzle_ == Swizzle::none) {
      offset += static_cast<uint32_t>(k / (along_k_ ? per_chunk : 8)) * leading_ +
                static_cast<uint32_t>(i / (along_k_ ? 8 : per_chunk)) * stride_;
    } else {
      const uint32_t chunk = static_cast<uint32_t>(along / per_chunk);
      offset += chunk % static_cast<uint32_t>(chunks) * 16;
      // Along k all of a product's are in one line.
      offset +=
          chunk / static_cast<uint32_t>(chunks) * leading_ + static_cast<uint32_t>(across / 8) * stride_;
    }
    return machine.at_shared_address(site_, swizzled(swizzle_, start_ + offset));
  }

  float value(int i, int k) const {
    const char* const at = element(i, k);
    if (element_bytes_ == 2) {
      bfloat16 value;
      std::memcpy(&value, at, sizeof value);
      return to_float(value);
    }
    uint32_t bits;
    std::memcpy(&bits, at, sizeof bits);
    bits &= ~uint32_t{0x1fff};  // the tensor cores ignore the low 13 bits of a tf32
    float value;
    std::memcpy(&value, &bits, sizeof value);
    return value;
  }

 private:
  const Site site_;
  const bool along_k_;
  const int element_bytes_;
  uint32_t start_, leading_, stride_;
  Swizzle swizzle_;
};

struct GroupProduct {
  Site site;
  int n, element_bytes;
  uint64_t a, b;
  bool a_along_k, b_along_k;

  bool same(const GroupProduct& other) const {
    return site == other.site && n == other.n && a == other.a && b == other.b;
  }
};

// The sums of a warp's lanes: those of registers that products in flight write.
struct Sums {
  float* registers[lanes_per_warp];
  int count;                  // of a lane
  std::vector<float> values;  // of all lanes, while they are in flight
  int in_flight = 0;
};

struct WarpProducts {
  uint64_t block_serial = 0;
  bool fenced = false;
  unsigned groups = 0;  // closed
  size_t started = 0;
  struct Started {
    GroupProduct product;
    size_t sums;
    unsigned group;
    bool done;
  };
  std::vector<Started> products;  // not waited for
  std::vector<Sums> sums;
};

// Of a block.
struct BlockProducts {
  WarpProducts warps[max_threads / lanes_per_warp];
  std::vector<GroupProduct> groups[max_threads / lanes_per_warp / 4];
  uint64_t group_serials[max_threads / lanes_per_warp / 4] = {};
};

inline BlockProducts block_products[max_cluster];

inline WarpProducts& own_products() {
  WarpProducts& warp = block_products[machine.cluster_rank()].warps[machine.thread_rank() / lanes_per_warp];
  if (warp.block_serial != machine.block_serial()) {
    warp = {};
    warp.block_serial = machine.block_serial();
  }
  return warp;
}

inline bool is_poison(float value) {
  uint32_t bits;
  std::memcpy(&bits, &value, sizeof bits);
  return bits == ~0u;
}

// The instruction's name with its shape.
template <int N, int K>
struct ProductName {
  char text[32] = "wgmma.mma_async.m64n";

  constexpr ProductName() {
    int at = 20;
    const auto write = [&](int number) {
      int unit = 1;
      while (number / unit >= 10) unit *= 10;
      for (; unit > 0; unit /= 10) text[at++] = static_cast<char>('0' + number / unit % 10);
    };
    write(N);
    text[at++] = 'k';
    write(K);
  }
};
template <int N, int K>
inline constexpr ProductName<N, K> product_name;

// Computes a warp's 16 rows. The order of the additions is k's; a chip's is not documented.
inline void compute(const GroupProduct& product, int warp_of_group, std::vector<float>& values) {
  if (counting::samples()) return;
  const FactorView a(product.site, product.a, product.a_along_k, product.element_bytes);
  const FactorView b(product.site, product.b, product.b_along_k, product.element_bytes);
  const int depth = 32 / product.element_bytes;
  std::vector<float> left(16 * depth), right(static_cast<size_t>(product.n) * depth);
  for (int i = 0; i < 16; ++i) {
    for (int k = 0; k < depth; ++k) left[i * depth + k] = a.value(warp_of_group * 16 + i, k);
  }
  for (int j = 0; j < product.n; ++j) {
    for (int k = 0; k < depth; ++k) right[j * depth + k] = b.value(j, k);
  }
  const int count = product.n / 2;
  for (int lane = 0; lane < lanes_per_warp; ++lane) {
    for (int i = 0; i < count; ++i) {
      const int row = lane / 4 + i / 2 % 2 * 8, column = i / 4 * 8 + lane % 4 * 2 + i % 2;
      float& sum = values[lane * count + i];
      for (int k = 0; k < depth; ++k) sum += left[row * depth + k] * right[column * depth + k];
    }
  }
}

// For the counting build: the chunks of 16 bytes that a warp's product reads.
inline void note_factors(const GroupProduct& product, int warp_of_group, unsigned group, void* caller) {
  const int depth = 32 / product.element_bytes, per_chunk = 16 / product.element_bytes;
  const auto note = [&](uint64_t descriptor, bool along_k, int first, int rows) {
    const FactorView view(product.site, descriptor, along_k, product.element_bytes);
    for (int i = first; i < first + rows; i += along_k ? 1 : per_chunk) {
      for (int k = 0; k < depth; k += along_k ? per_chunk : 1) {
        counting::factor_read(view.element(i, k), group, caller);
      }
    }
  };
  note(product.a, product.a_along_k, warp_of_group * 16, 16);
  note(product.b, product.b_along_k, 0, product.n);
}

struct GroupOperand {
  float* registers;
  GroupProduct product;
};

__attribute__((noinline)) inline void start_product(const GroupProduct& product, float* registers) {
  const counting::Paused paused;
  void* const caller = __builtin_return_address(0);
  const Site& site = product.site;
  const int warp = machine.thread_rank() / lanes_per_warp;
  GroupOperand operand{registers, product};
  machine.warp_operation(site, ~0u, operand, [&](GroupOperand* const* lanes, unsigned) {
    WarpProducts& own = own_products();
    if (!own.fenced)
      machine.fail<KernelError>(site,
                                "no fence precedes the warp's first "
                                "product, or its next behind a wait");
    for (int lane = 1; lane < lanes_per_warp; ++lane) {
      if (!lanes[lane]->product.same(product))
        machine.fail<KernelError>(site, "lanes name different matrices");
    }
    BlockProducts& of_block = block_products[machine.cluster_rank()];
    std::vector<GroupProduct>& of_group = of_block.groups[warp / 4];
    if (of_block.group_serials[warp / 4] != machine.block_serial()) {
      of_block.group_serials[warp / 4] = machine.block_serial();
      of_group.clear();
    }
    if (own.started == of_group.size()) {
      of_group.push_back(product);
    } else if (!of_group[own.started].same(product)) {
      machine.fail<KernelError>(site, "warps of a group start different products");
    }
    ++own.started;
    // 16 rows of A are the warp's own, and the four read B together.
    counting::factors_read(static_cast<size_t>(16 + product.n / 4) * 32, caller);

    const int count = product.n / 2;
    size_t index = 0;
    while (index < own.sums.size() && own.sums[index].registers[0] != lanes[0]->registers) ++index;
    if (index == own.sums.size()) own.sums.emplace_back();
    Sums& sums = own.sums[index];
    if (sums.in_flight > 0) {
      if (sums.count != count) machine.fail<KernelError>(site, "a product in flight has another shape");
      for (int lane = 0; lane < lanes_per_warp; ++lane) {
        for (int i = 0; i < count; ++i) {
          if (!is_poison(lanes[lane]->registers[i])) {
            machine.fail<KernelError>(site,
                                      "sums were written while products "
                                      "that add to them were in flight");
          }
        }
      }
    } else {
      sums.count = count;
      sums.values.resize(static_cast<size_t>(lanes_per_warp) * count);
      for (int lane = 0; lane < lanes_per_warp; ++lane) {
        sums.registers[lane] = lanes[lane]->registers;
        std::memcpy(&sums.values[lane * count], sums.registers[lane], sizeof(float) * count);
        std::memset(sums.registers[lane], 0xff, sizeof(float) * count);
      }
    }
    ++sums.in_flight;
    const bool early = machine.schedule() == Schedule::forward ||
                       (machine.schedule() == Schedule::random && machine.random_below(2) == 0 &&
                        (own.products.empty() || own.products.back().done));
    if (counting::finds_races()) note_factors(product, warp % 4, own.groups, caller);
    if (early) compute(product, warp % 4, sums.values);
    own.products.push_back({product, index, own.groups, early});
  });
}

inline void fence_products(const Site& site) {
  const counting::Paused paused;
  unsigned nothing = 0;
  machine.warp_operation(site, ~0u, nothing,
                         [](unsigned* const*, unsigned) { own_products().fenced = true; });
}

inline void close_product_group(const Site& site) {
  const counting::Paused paused;
  unsigned nothing = 0;
  machine.warp_operation(site, ~0u, nothing, [](unsigned* const*, unsigned) { ++own_products().groups; });
}

// Waits for all but the warp's last `pending` groups of products.
inline void wait_for_products(const Site& site, unsigned pending) {
  const counting::Paused paused;
  const int warp = machine.thread_rank() / lanes_per_warp;
  unsigned nothing = 0;
  machine.warp_operation(site, ~0u, nothing, [&](unsigned* const*, unsigned) {
    WarpProducts& own = own_products();
    size_t done = 0;
    for (; done < own.products.size() && own.products[done].group + pending < own.groups; ++done) {
      WarpProducts::Started& started = own.products[done];
      Sums& sums = own.sums[started.sums];
      if (!started.done) compute(started.product, warp % 4, sums.values);
      if (--sums.in_flight > 0) continue;
      for (int lane = 0; lane < lanes_per_warp; ++lane) {
        std::memcpy(sums.registers[lane], &sums.values[lane * sums.count], sizeof(float) * sums.count);
      }
      own.fenced = false;  // the registers may be used, and a fence must order that before the next product
    }
    own.products.erase(own.products.begin(), own.products.begin() + static_cast<std::ptrdiff_t>(done));
    counting::products_done(own.groups - std::min(pending, own.groups));
  });
}

}  // namespace cconvnet::emulator
