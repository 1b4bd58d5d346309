// Checks of a warp's products by tensor cores.
#pragma once

#include <functional>

#include "words.cuh"
#include "core/ptx.cuh"

namespace {

enum class Type { bf16, tf32 };

constexpr int words_per_product = 4 + 2 + 4;  // a, b and c of a lane

// `in` has, for each round, words_per_product words of each lane.
template <Type TYPE>
__global__ void products(int rounds, const uint32_t* in, uint32_t* out) {
  const int t = threadIdx.x;
  for (int round = 0; round < rounds; ++round) {
    const uint32_t* const own = in + (round * kLanes + t) * words_per_product;
    const ptx::Word a[4] = {own[0], own[1], own[2], own[3]}, b[2] = {own[4], own[5]};
    float c[4];
    for (int i = 0; i < 4; ++i) c[i] = __uint_as_float(own[6 + i]);
    if (TYPE == Type::bf16) {
      ptx::multiply_add_bf16(c, a, b);
    } else {
      ptx::multiply_add_tf32(c, a, b);
    }
    for (int i = 0; i < 4; ++i) out[(round * kLanes + t) * 4 + i] = __float_as_uint(c[i]);
  }
}

// One product C[16, 8] += A[16, K] B[8, K]^T, given as matrices.
struct Product {
  static constexpr int max_k = 16;
  float a[16][max_k] = {}, b[8][max_k] = {}, c[16][8] = {};
};

template <Type TYPE>
Words of_products(const std::vector<Product>& rounds, uint32_t noise = 0) {
  constexpr int PER_WORD = TYPE == Type::bf16 ? 2 : 1, HALF = 4 * PER_WORD;
  Draw draw(7);
  Words in;
  const auto word = [&](const float* row, int first) {
    if (TYPE == Type::tf32) return bits_of(row[first]) | (draw.word() & noise);
    return bits_of(row[first]) >> 16 | (bits_of(row[first + 1]) & 0xffff0000);
  };
  for (const Product& p : rounds) {
    for (int lane = 0; lane < kLanes; ++lane) {
      const int group = lane / 4, place = lane % 4;
      for (int half = 0; half < 2; ++half) {
        in.push_back(word(p.a[group], half * HALF + place * PER_WORD));
        in.push_back(word(p.a[group + 8], half * HALF + place * PER_WORD));
      }
      for (int half = 0; half < 2; ++half) in.push_back(word(p.b[group], half * HALF + place * PER_WORD));
      for (int i = 0; i < 4; ++i) in.push_back(bits_of(p.c[group + i / 2 * 8][2 * place + i % 2]));
    }
  }
  const DeviceWords given(in), out(rounds.size() * kLanes * 4);
  CCONVNET_LAUNCH(products<TYPE>, 1, kLanes, nullptr, static_cast<int>(rounds.size()), given.at(), out.at());
  return canonical(out.host());
}

template <Type TYPE>
constexpr int kDepth = TYPE == Type::bf16 ? 16 : 8;

// Integers whose sums have at most 21 bits, with a power of two for each row and column.
template <Type TYPE>
Words exact_products() {
  const int largest = TYPE == Type::bf16 ? 255 : 511;
  Draw draw(8);
  std::vector<Product> rounds(64);
  for (Product& p : rounds) {
    const bool scaled = &p - rounds.data() >= 32;
    int row_scale[16], column_scale[8];
    for (int& scale : row_scale) scale = scaled ? draw.integer(-40, 40) : 0;
    for (int& scale : column_scale) scale = scaled ? draw.integer(-20, 20) : 0;
    for (int k = 0; k < kDepth<TYPE>; ++k) {
      for (int row = 0; row < 16; ++row) {
        p.a[row][k] = std::ldexp(float(draw.integer(-largest, largest)), row_scale[row]);
      }
      for (int column = 0; column < 8; ++column) {
        p.b[column][k] = std::ldexp(float(draw.integer(-largest, largest)), column_scale[column]);
      }
    }
    for (int row = 0; row < 16; ++row) {
      for (int column = 0; column < 8; ++column) {
        p.c[row][column] =
            std::ldexp(float(draw.integer(-100000, 100000)), row_scale[row] + column_scale[column]);
      }
    }
  }
  return of_products<TYPE>(rounds, TYPE == Type::tf32 ? 0x1fff : 0);
}

// Infinities and NaNs among finite numbers, in every factor and the sum.
template <Type TYPE>
Words special_products() {
  const float infinity = std::numeric_limits<float>::infinity();
  const float specials[] = {infinity, -infinity, std::numeric_limits<float>::quiet_NaN(), 0.0f};
  Draw draw(9);
  std::vector<Product> rounds(64);
  for (Product& p : rounds) {
    const auto value = [&](int chance) {
      return draw.integer(1, chance) == 1 ? specials[draw.word() % 4] : float(draw.integer(1, 9));
    };
    for (int k = 0; k < kDepth<TYPE>; ++k) {
      for (auto& row : p.a) row[k] = value(20);
      for (auto& column : p.b) column[k] = value(40);
    }
    for (auto& row : p.c) {
      for (float& sum : row) sum = value(20);
    }
  }
  return of_products<TYPE>(rounds);
}

// Sums that are rounded, which measure the bits that a chip keeps.
template <Type TYPE>
Words real_products() {
  Draw draw(10);
  std::vector<Product> rounds(64);
  // Numbers that are exact in the type.
  const uint32_t kept = TYPE == Type::bf16 ? 0xffff0000 : 0xffffe000;
  const auto value = [&] { return float_of(bits_of(draw.real()) & kept); };
  for (Product& p : rounds) {
    for (int k = 0; k < kDepth<TYPE>; ++k) {
      for (auto& row : p.a) row[k] = value();
      for (auto& column : p.b) column[k] = value();
    }
    for (auto& row : p.c) {
      for (float& sum : row) sum = draw.real();
    }
  }
  return of_products<TYPE>(rounds);
}

// 2^row + (1 + ... + 1) of K ones, for rows of 16 to 31: how far below the largest term others still count.
template <Type TYPE>
Words absorbing_products() {
  Product p;
  for (auto& row : p.a) std::fill_n(row, kDepth<TYPE>, 1.0f);
  for (auto& column : p.b) std::fill_n(column, kDepth<TYPE>, 1.0f);
  for (int row = 0; row < 16; ++row) {
    for (int column = 0; column < 8; ++column) {
      p.c[row][column] = std::ldexp(column % 2 ? -1.0f : 1.0f, 16 + row);
    }
  }
  return of_products<TYPE>({p});
}

// Subnormal factors, products and sums.
template <Type TYPE>
Words subnormal_products() {
  Draw draw(11);
  std::vector<Product> rounds(3);
  for (int round = 0; round < 3; ++round) {
    Product& p = rounds[round];
    for (int k = 0; k < kDepth<TYPE>; ++k) {
      for (auto& row : p.a) row[k] = std::ldexp(float(draw.integer(1, 7)), round == 0 ? -130 : -70);
      for (auto& column : p.b) column[k] = std::ldexp(float(draw.integer(1, 7)), round == 0 ? 100 : -66);
    }
    if (round == 2) p.c[0][0] = 0x1p-140f;
  }
  return of_products<TYPE>(rounds);
}

}  // namespace
