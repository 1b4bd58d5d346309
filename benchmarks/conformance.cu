// What the emulator says of a GPU's instructions, for comparison with a GPU: each check runs one wrapper of
// ptx.cuh, or one device function that the kernels use, on given inputs and prints the words that come out.
//
// This file is compiled twice: by nvcc for a GPU, and by a host compiler, where the wrappers' lane-level
// references and the emulator's functions run instead. conformance.py builds both and compares their lines.
//
//   conformance [--list] [--device N] [--schedule forward|reverse|random] [check...]
//
// A line: {"check": name, "exact": whether all words must be equal, "float": whether they are floats,
//          "words": "hexadecimal"}
// Results of floating-point arithmetic are printed with one NaN for all, since its bits are unspecified.
// Inputs of checks that must be exact have exact sums: in which order tensor cores add, and how many bits
// they keep meanwhile, is measured by the others.
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <limits>
#include <string>
#include <vector>

#include "core/larger.h"
#include "core/launch.cuh"
#include "core/philox.h"
#include "core/ptx.cuh"
#include "core/vector.cuh"

using namespace cconvnet;

namespace {

using Words = std::vector<uint32_t>;

constexpr int kLanes = 32;
constexpr uint32_t kNan = 0x7fffffff;

uint32_t bits_of(float value) {
  uint32_t bits;
  std::memcpy(&bits, &value, sizeof bits);
  return bits;
}

float float_of(uint32_t bits) {
  float value;
  std::memcpy(&value, &bits, sizeof value);
  return value;
}

uint32_t canonical(uint32_t bits) {
  return (bits & 0x7fffffff) > 0x7f800000 ? kNan : bits;
}

Words canonical(Words words) {
  for (uint32_t& word : words) word = canonical(word);
  return words;
}

// ---- memory of the device ---------------------------------------------------------------------------------

class DeviceWords {
 public:
  explicit DeviceWords(size_t count) : DeviceWords(Words(count, 0xffffffff)) {}

  explicit DeviceWords(const Words& values) : count_(values.size()) {
#ifdef __CUDACC__
    CCONVNET_CHECK(cudaMalloc(&data_, count_ * sizeof(uint32_t)));
    CCONVNET_CHECK(cudaMemcpy(data_, values.data(), count_ * sizeof(uint32_t), cudaMemcpyHostToDevice));
#else
    data_ = static_cast<uint32_t*>(::operator new(count_ * sizeof(uint32_t), std::align_val_t{256}));
    std::memcpy(data_, values.data(), count_ * sizeof(uint32_t));
#endif
  }

  ~DeviceWords() {
#ifdef __CUDACC__
    cudaFree(data_);
#else
    ::operator delete(data_, std::align_val_t{256});
#endif
  }

  DeviceWords(const DeviceWords&) = delete;
  DeviceWords& operator=(const DeviceWords&) = delete;

  template <class T = uint32_t>
  T* at(size_t word = 0) const {
    return reinterpret_cast<T*>(data_ + word);
  }

  Words host() const {
    Words values(count_);
#ifdef __CUDACC__
    CCONVNET_CHECK(cudaMemcpy(values.data(), data_, count_ * sizeof(uint32_t), cudaMemcpyDeviceToHost));
#else
    std::memcpy(values.data(), data_, count_ * sizeof(uint32_t));
#endif
    return values;
  }

 private:
  size_t count_;
  uint32_t* data_ = nullptr;
};

// ---- inputs -----------------------------------------------------------------------------------------------

// SplitMix64 (Steele, Lea, Flood 2014).
class Draw {
 public:
  explicit Draw(uint64_t seed) : state_(seed) {}

  uint32_t word() {
    uint64_t z = state_ += 0x9e3779b97f4a7c15u;
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return static_cast<uint32_t>((z ^ (z >> 31)) >> 32);
  }

  int integer(int low, int high) { return low + static_cast<int>(word() % uint32_t(high - low + 1)); }

  // From 0.5 to 2, all bits of the fraction drawn.
  float real() { return std::ldexp(1.0f + (word() >> 9) * 0x1p-23f, integer(-1, 0)); }

  Words words(size_t count) {
    Words drawn(count);
    for (uint32_t& value : drawn) value = word();
    return drawn;
  }

 private:
  uint64_t state_;
};

// Where conversions and comparisons may go wrong: both signs of zeros, subnormals, infinities, NaNs with many
// payloads, and for every exponent fractions at and beside the ties of bfloat16 and tf32; then random words.
Words difficult_floats() {
  Words values;
  const uint32_t fractions[] = {0,        1,        0x0fff,   0x1000,   0x1001,   0x1fff,   0x2000,
                                0x3000,   0x7fff,   0x8000,   0x8001,   0xffff,   0x10000,  0x18000,
                                0x400000, 0x3fffff, 0x7fefff, 0x7ff000, 0x7fffff, 0x7f7fff, 0x7f8000};
  for (uint32_t sign = 0; sign < 2; ++sign) {
    for (uint32_t exponent = 0; exponent < 256; ++exponent) {
      for (uint32_t fraction : fractions) values.push_back(sign << 31 | exponent << 23 | fraction);
    }
  }
  Draw draw(1);
  while (values.size() % 4096 != 0) values.push_back(draw.word());
  return values;
}

// Pairs of them: each with a random other, with itself and with its negative.
struct Pairs {
  Words a, b, c;
};

Pairs difficult_pairs() {
  Pairs pairs;
  const Words values = difficult_floats();
  Draw draw(2);
  for (uint32_t value : values) {
    const uint32_t any = values[draw.word() % values.size()];
    // Near in size, where sums cancel and quotients are near 1.
    const uint32_t near = value ^ (draw.word() & 0x80ffffff);
    for (uint32_t other : {any, near, value, value ^ 0x80000000}) {
      pairs.a.push_back(value);
      pairs.b.push_back(other);
      pairs.c.push_back(values[draw.word() % values.size()]);
    }
  }
  return pairs;
}

// Positive, of moderate size, where approximations are used.
Words moderate_floats(float low, float high) {
  Words values;
  Draw draw(3);
  for (int i = 0; i < 16384; ++i) values.push_back(bits_of(low + (high - low) * (draw.word() * 0x1p-32f)));
  return values;
}

// ---- functions of one to three words, one thread for each -------------------------------------------------

template <class Function>
__global__ void __launch_bounds__(256)
    each_word(int count, const uint32_t* a, const uint32_t* b, const uint32_t* c, uint32_t* out) {
  const int i = blockIdx.x * 256 + threadIdx.x;
  if (i < count) out[i] = Function::of(a[i], b[i], c[i]);
}

template <class Function>
Words of_words(const Words& a, const Words& b, const Words& c) {
  const DeviceWords da(a), db(b), dc(c), out(a.size());
  const int count = static_cast<int>(a.size());
  CCONVNET_LAUNCH(each_word<Function>, (count + 255) / 256, 256, nullptr, count, da.at(), db.at(), dc.at(),
                  out.at());
  return out.host();
}

template <class Function>
Words of_floats() {
  const Words values = difficult_floats();
  return of_words<Function>(values, values, values);
}

template <class Function>
Words of_pairs() {
  const Pairs pairs = difficult_pairs();
  return of_words<Function>(pairs.a, pairs.b, pairs.c);
}

template <class Function>
Words of_integers() {
  Words a = difficult_floats(), b = a;
  Draw draw(4);
  for (uint32_t& word : b) word = draw.word() >> draw.integer(0, 31);
  return of_words<Function>(a, b, b);
}

// A C library may treat a signalling NaN otherwise than a GPU, which knows of none.
__device__ __forceinline__ float quiet(uint32_t bits) {
  return __uint_as_float((bits & 0x7fffffff) > 0x7f800000 ? bits | 0x400000 : bits);
}

__device__ __forceinline__ float rounded_first(float x, float y) {
  round_to_bfloat16(x, y);
  return x;
}

__device__ __forceinline__ float rounded_second(float x, float y) {
  round_to_bfloat16(x, y);
  return y;
}

#define CCONVNET_FUNCTION(name, expression)                                               \
  struct name {                                                                           \
    static __device__ __forceinline__ uint32_t of(uint32_t a, uint32_t b, uint32_t c) {   \
      (void)a, (void)b, (void)c;                                                          \
      const float x = __uint_as_float(a), y = __uint_as_float(b), z = __uint_as_float(c); \
      (void)x, (void)y, (void)z;                                                          \
      return (expression);                                                                \
    }                                                                                     \
  };
#define CCONVNET_FLOAT_FUNCTION(name, expression) CCONVNET_FUNCTION(name, __float_as_uint(expression))

CCONVNET_FUNCTION(ToTf32, ptx::to_tf32(a))
CCONVNET_FUNCTION(ToBfloat16, to_bfloat16(x).bits)
CCONVNET_FUNCTION(FromBfloat16, __float_as_uint(to_float(bfloat16{static_cast<uint16_t>(a >> 16)})))
CCONVNET_FLOAT_FUNCTION(FirstRounded, rounded_first(x, y))
CCONVNET_FLOAT_FUNCTION(SecondRounded, rounded_second(y, x))

CCONVNET_FLOAT_FUNCTION(Sum, __fadd_rn(x, y))
CCONVNET_FLOAT_FUNCTION(Multiplied, __fmul_rn(x, y))
CCONVNET_FLOAT_FUNCTION(Fused, fmaf(x, y, z))
CCONVNET_FLOAT_FUNCTION(Quotient, x / y)
CCONVNET_FLOAT_FUNCTION(Root, sqrtf(x))
CCONVNET_FLOAT_FUNCTION(Larger, larger(x, y))
CCONVNET_FLOAT_FUNCTION(Maximum, fmaxf(quiet(a), quiet(b)))
CCONVNET_FLOAT_FUNCTION(Minimum, fminf(quiet(a), quiet(b)))

CCONVNET_FLOAT_FUNCTION(Exponential, expf(x))
CCONVNET_FLOAT_FUNCTION(Logarithm, logf(x))
CCONVNET_FLOAT_FUNCTION(LogarithmOf1Plus, log1pf(x))
CCONVNET_FLOAT_FUNCTION(Power, powf(x, -0.75f))
CCONVNET_FLOAT_FUNCTION(Tangent, tanhf(x))
CCONVNET_FLOAT_FUNCTION(ReciprocalRoot, rsqrtf(x))
CCONVNET_FLOAT_FUNCTION(FastQuotient, __fdividef(1.0f, x))

CCONVNET_FUNCTION(HighProduct, __umulhi(a, b))
CCONVNET_FUNCTION(HighSignedProduct, static_cast<uint32_t>(__mulhi(static_cast<int>(a), static_cast<int>(b))))
CCONVNET_FUNCTION(BitCount, static_cast<uint32_t>(__popc(a)))
CCONVNET_FUNCTION(LeadingZeros, static_cast<uint32_t>(__clz(static_cast<int>(a))))
CCONVNET_FUNCTION(FirstBit, static_cast<uint32_t>(__ffs(static_cast<int>(a))))
CCONVNET_FUNCTION(Random, philox_word(a, b, (uint64_t{a} << 32) | b))
#undef CCONVNET_FUNCTION
#undef CCONVNET_FLOAT_FUNCTION

// Zeros of both signs: which one is the larger is measured, not promised.
Words without_opposite_zeros(Words results) {
  for (uint32_t& word : results) word = word == 0x80000000 ? 0 : canonical(word);
  return results;
}

Words opposite_zeros(Words (*compute)(const Words&, const Words&, const Words&)) {
  const Words a = {0, 0x80000000, 0, 0x80000000}, b = {0x80000000, 0, 0, 0x80000000};
  return compute(a, b, b);
}

// ---- asynchronous copies ----------------------------------------------------------------------------------

constexpr int kGroups = 5;

struct alignas(16) CopyShared {
  uint4 at[kGroups][kLanes];
};

// Group g copies 16 bytes for each lane, some of them zeros; a lane sees its neighbour's behind each wait.
// Zeros come from `nowhere`, which nobody may read.
__global__ void copies(const uint4* x, const uint4* nowhere, uint4* y) {
  CopyShared& shared = shared_memory<CopyShared>();
  const int t = threadIdx.x;
  for (int g = 0; g < kGroups; ++g) {
    const bool inside = (t + g) % 3 != 0;
    ptx::start_copy(&shared.at[g][t], inside ? x + g * kLanes + t : nowhere, inside);
    ptx::close_copy_group();
  }
  const auto look = [&](int done) {
    __syncthreads();
    for (int g = 0; g < done; ++g) *y++ = shared.at[g][t ^ 5];
  };
  y += t * 12;
  ptx::wait_for_copies<3>();
  look(2);
  ptx::wait_for_copies<1>();
  look(4);
  ptx::wait_for_copies<0>();
  look(5);
  y[0] = shared.at[0][t];
}

Words copies_beside(bool null) {
  const DeviceWords x(Draw(5).words(kGroups * kLanes * 4)), y(kLanes * 12 * 4);
  const uint4* const nowhere = null ? nullptr : x.at<const uint4>();
  CCONVNET_LAUNCH(copies, 1, kLanes, nullptr, x.at<const uint4>(), nowhere, y.at<uint4>());
  return y.host();
}

// ---- fragments --------------------------------------------------------------------------------------------

constexpr int kMatrixRows = 64;

struct alignas(16) MatrixShared {
  uint4 row[kMatrixRows];
};

template <bool TRANSPOSED>
__global__ void fragments(const uint4* x, const uint32_t* rows, uint32_t* y) {
  MatrixShared& shared = shared_memory<MatrixShared>();
  const int t = threadIdx.x;
  for (int i = t; i < kMatrixRows; i += kLanes) shared.row[i] = x[i];
  __syncthreads();
  for (int round = 0; round < 8; ++round) {
    const uint4* const row = &shared.row[rows[round * kLanes + t]];
    const ptx::Matrices m = TRANSPOSED ? ptx::load_matrices_transposed(row) : ptx::load_matrices(row);
    for (int i = 0; i < 4; ++i) y[(round * 4 + i) * kLanes + t] = m.part[i];
  }
}

template <bool TRANSPOSED>
Words loaded_matrices() {
  Draw draw(6);
  const DeviceWords x(draw.words(kMatrixRows * 4));
  Words rows(8 * kLanes);
  for (uint32_t& row : rows) row = static_cast<uint32_t>(draw.integer(0, kMatrixRows - 1));
  const DeviceWords drawn(rows), y(8 * 4 * kLanes);
  CCONVNET_LAUNCH(fragments<TRANSPOSED>, 1, kLanes, nullptr, x.at<const uint4>(), drawn.at(), y.at());
  return y.host();
}

// ---- products of a warp -----------------------------------------------------------------------------------

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

// Sums that are rounded: what a chip keeps of them.
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

// ---- warps and blocks -------------------------------------------------------------------------------------

__global__ void shuffles(const uint32_t* x, uint32_t* y) {
  const uint32_t value = x[threadIdx.x];
  const int t = threadIdx.x;
  int line = 0;
  const auto write = [&](uint32_t word) { y[line++ * kLanes + t] = word; };
  for (int width = 1; width <= kLanes; width *= 2) {
    for (unsigned delta : {0u, 1u, 2u, 5u, 16u, 31u}) {
      write(__shfl_sync(~0u, value, static_cast<int>(delta), width));
      write(__shfl_up_sync(~0u, value, delta, width));
      write(__shfl_down_sync(~0u, value, delta, width));
      write(__shfl_xor_sync(~0u, value, static_cast<int>(delta), width));
    }
  }
  // Half a warp, and a source that differs from lane to lane.
  if (t < 16) {
    write(__shfl_xor_sync(0xffffu, value, 3));
    write(__shfl_sync(0xffffu, value, static_cast<int>(value & 15)));
  }
}

Words of_shuffles() {
  const DeviceWords x(Draw(12).words(kLanes)), y(size_t{6 * 6 * 4 + 2} * kLanes);
  CCONVNET_LAUNCH(shuffles, 1, kLanes, nullptr, x.at(), y.at());
  return y.host();
}

struct VoteShared {
  uint32_t at[kLanes];
};

__global__ void votes(const uint32_t* x, uint32_t* y) {
  const int t = threadIdx.x, lane = t % kLanes;
  int line = 0;
  const auto write = [&](uint32_t word) { y[line++ * blockDim.x + t] = word; };
  for (int round = 0; round < 8; ++round) {
    const uint32_t value = x[round * blockDim.x + t];
    const bool predicate = value % 8 < static_cast<uint32_t>(round);
    write(__ballot_sync(~0u, predicate));
    write(static_cast<uint32_t>(__any_sync(~0u, predicate) != 0));
    write(static_cast<uint32_t>(__all_sync(~0u, predicate) != 0));
    write(static_cast<uint32_t>(__syncthreads_count(predicate)));
    write(static_cast<uint32_t>(__syncthreads_or(predicate) != 0));
    write(static_cast<uint32_t>(__syncthreads_and(predicate) != 0));
    VoteShared& shared = shared_memory<VoteShared>();
    __syncthreads();
    if (t < kLanes) {
      shared.at[lane] = value;
      __syncwarp();
      write(shared.at[lane ^ 7]);
    }
    __syncthreads();
  }
}

Words of_votes() {
  constexpr int THREADS = 96;
  const DeviceWords x(Draw(13).words(8 * THREADS)), y(8 * 7 * THREADS);
  CCONVNET_LAUNCH(votes, 1, THREADS, nullptr, x.at(), y.at());
  return y.host();
}

// What is in each place when all threads are through does not depend on their order.
__global__ void atomics(const uint32_t* x, uint32_t* y, unsigned long long* sums) {
  const int i = blockIdx.x * blockDim.x + threadIdx.x, place = i % 7;
  const uint32_t value = x[i];
  atomicAdd(&y[place], value);
  atomicMax(&y[7 + place], value);
  atomicMin(&y[14 + place], value);
  atomicAnd(&y[21 + place], value | 0xffff);
  atomicOr(&y[28 + place], value & 0x10101010);
  atomicXor(&y[35 + place], value);
  atomicInc(&y[42 + place], 9);
  atomicMax(reinterpret_cast<int*>(&y[49 + place]), static_cast<int>(value));
  for (uint32_t seen = y[56 + place];;) {
    const uint32_t before = atomicCAS(&y[56 + place], seen, seen * 5);
    if (before == seen) break;
    seen = before;
  }
  y[64 + i] = atomicExch(&y[64 + i], value);
  atomicAdd(&sums[place], 1ull << value % 64);
}

Words of_atomics() {
  constexpr int BLOCKS = 8, THREADS = 64;
  Words start(64 + BLOCKS * THREADS);
  for (size_t i = 0; i < start.size(); ++i) start[i] = static_cast<uint32_t>(i * 2654435761u);
  for (int i = 42; i < 49; ++i) start[i] = 0;
  const DeviceWords x(Draw(14).words(BLOCKS * THREADS)), y(start), sums(Words(14));
  CCONVNET_LAUNCH(atomics, BLOCKS, THREADS, nullptr, x.at(), y.at(), sums.at<unsigned long long>());
  Words words = y.host();
  const Words more = sums.host();
  words.insert(words.end(), more.begin(), more.end());
  return words;
}

// All of the shared memory that a launch may give on every GPU that kernels are written for.
struct alignas(16) WholeRoom {
  uint32_t at[99 * 1024 / sizeof(uint32_t)];
};

__global__ void whole_room(uint32_t* y) {
  WholeRoom& room = launch_shared_memory<WholeRoom>();
  constexpr unsigned COUNT = sizeof room.at / sizeof room.at[0];
  for (unsigned i = threadIdx.x; i < COUNT; i += blockDim.x) room.at[i] = i * 2654435761u + blockIdx.x;
  __syncthreads();
  uint32_t all = 0;
  for (unsigned i = threadIdx.x; i < COUNT; i += blockDim.x) all = all * 31 + room.at[COUNT - 1 - i];
  y[blockIdx.x * blockDim.x + threadIdx.x] = all;
}

Words of_whole_room() {
  constexpr int BLOCKS = 4, THREADS = 256;
  const DeviceWords y(BLOCKS * THREADS);
  CCONVNET_LAUNCH_SHARED(whole_room, BLOCKS, THREADS, sizeof(WholeRoom), nullptr, y.at());
  return y.host();
}

// ---- vectors ----------------------------------------------------------------------------------------------

template <class T, int WIDTH>
__global__ void vectors(const T* x, T* y) {
  const int i = threadIdx.x * WIDTH;
  store(y + i, load<WIDTH>(x + i));
  T* const crooked = y + kLanes * WIDTH;
  store_to<false>(crooked + i, load_from<WIDTH, false>(x + 1 + i));
}

__global__ void words(const uint32_t* x, uint32_t* y) {
  y[threadIdx.x] = __ldg(x + threadIdx.x);
}

template <class T, int WIDTH>
void add_vectors(const DeviceWords& x, Words& results) {
  const DeviceWords y(2 * kLanes * WIDTH * sizeof(T) / sizeof(uint32_t) + 1);
  CCONVNET_LAUNCH((vectors<T, WIDTH>), 1, kLanes, nullptr, x.at<const T>(), y.at<T>());
  const Words found = y.host();
  results.insert(results.end(), found.begin(), found.end());
}

Words of_vectors() {
  Words given = Draw(15).words(kLanes * 8 + 1);
  // bfloat16s that are NaN lose their bits when they are written.
  for (uint32_t& word : given) word &= 0xbfffbfff;
  const DeviceWords x(given), y(kLanes);
  CCONVNET_LAUNCH(words, 1, kLanes, nullptr, x.at(), y.at());
  Words results = y.host();
  add_vectors<float, 1>(x, results);
  add_vectors<float, 2>(x, results);
  add_vectors<float, 4>(x, results);
  add_vectors<float, 8>(x, results);
  add_vectors<bfloat16, 1>(x, results);
  add_vectors<bfloat16, 2>(x, results);
  add_vectors<bfloat16, 4>(x, results);
  add_vectors<bfloat16, 8>(x, results);
  return results;
}

__global__ void divide(int count, Divider divider, uint32_t* y) {
  const int i = blockIdx.x * blockDim.x + threadIdx.x;
  const int n = static_cast<int>(static_cast<unsigned>(i) * 2654435761u & 0x7fffffffu);
  int remainder;
  if (i < count) {
    y[2 * i] = static_cast<uint32_t>(divider.divide(n, remainder));
    y[2 * i + 1] = static_cast<uint32_t>(remainder);
  }
}

Words of_divisions() {
  Words results;
  for (int divisor : {1, 2, 3, 7, 25, 48, 121, 1000, 65537, 0x7fffffff}) {
    const DeviceWords y(2 * 1024);
    CCONVNET_LAUNCH(divide, 4, 256, nullptr, 1024, Divider(divisor), y.at());
    const Words found = y.host();
    results.insert(results.end(), found.begin(), found.end());
  }
  return results;
}

// ---- the checks -------------------------------------------------------------------------------------------

struct Check {
  const char* name;
  bool exact, floats;
  std::function<Words()> run;
};

constexpr bool EXACT = true, MEASURED = false, WORDS = false, FLOATS = true;

template <class Function>
std::function<Words()> approximation(float low, float high) {
  return [low, high] {
    const Words values = moderate_floats(low, high);
    return canonical(of_words<Function>(values, values, values));
  };
}

std::vector<Check> all_checks() {
  return {
      // ptx.cuh
      {"start_copy, close_copy_group, wait_for_copies", EXACT, WORDS, [] { return copies_beside(false); }},
      {"start_copy of zeros from a null address", EXACT, WORDS, [] { return copies_beside(true); }},
      {"load_matrices", EXACT, WORDS, loaded_matrices<false>},
      {"load_matrices_transposed", EXACT, WORDS, loaded_matrices<true>},
      {"multiply_add_bf16", EXACT, FLOATS, exact_products<Type::bf16>},
      {"multiply_add_bf16 of infinities and NaNs", EXACT, FLOATS, special_products<Type::bf16>},
      {"multiply_add_tf32", EXACT, FLOATS, exact_products<Type::tf32>},
      {"multiply_add_tf32 of infinities and NaNs", EXACT, FLOATS, special_products<Type::tf32>},
      {"to_tf32", EXACT, WORDS, of_floats<ToTf32>},
      // bfloat16.h
      {"to_bfloat16", EXACT, WORDS, of_floats<ToBfloat16>},
      {"to_float", EXACT, WORDS, of_floats<FromBfloat16>},
      {"round_to_bfloat16, first", EXACT, FLOATS, [] { return canonical(of_pairs<FirstRounded>()); }},
      {"round_to_bfloat16, second", EXACT, FLOATS, [] { return canonical(of_pairs<SecondRounded>()); }},
      // arithmetic
      {"__fadd_rn", EXACT, FLOATS, [] { return canonical(of_pairs<Sum>()); }},
      {"__fmul_rn", EXACT, FLOATS, [] { return canonical(of_pairs<Multiplied>()); }},
      {"fmaf", EXACT, FLOATS, [] { return canonical(of_pairs<Fused>()); }},
      {"quotient", EXACT, FLOATS, [] { return canonical(of_pairs<Quotient>()); }},
      {"sqrtf", EXACT, FLOATS, [] { return canonical(of_floats<Root>()); }},
      {"larger", EXACT, FLOATS, [] { return canonical(of_pairs<Larger>()); }},
      {"fmaxf", EXACT, FLOATS, [] { return without_opposite_zeros(of_pairs<Maximum>()); }},
      {"fminf", EXACT, FLOATS, [] { return without_opposite_zeros(of_pairs<Minimum>()); }},
      {"__umulhi", EXACT, WORDS, of_integers<HighProduct>},
      {"__mulhi", EXACT, WORDS, of_integers<HighSignedProduct>},
      {"__popc", EXACT, WORDS, of_integers<BitCount>},
      {"__clz", EXACT, WORDS, of_integers<LeadingZeros>},
      {"__ffs", EXACT, WORDS, of_integers<FirstBit>},
      {"philox_word", EXACT, WORDS, of_integers<Random>},
      {"Divider", EXACT, WORDS, of_divisions},
      // warps, blocks, memory
      {"__shfl_sync, __shfl_up_sync, __shfl_down_sync, __shfl_xor_sync", EXACT, WORDS, of_shuffles},
      {"votes and barriers", EXACT, WORDS, of_votes},
      {"atomics", EXACT, WORDS, of_atomics},
      {"vectors", EXACT, WORDS, of_vectors},
      {"launch_shared_memory", EXACT, WORDS, of_whole_room},
      // Measured: how a chip differs where nothing is promised.
      {"fmaxf of opposite zeros", MEASURED, WORDS, [] { return opposite_zeros(of_words<Maximum>); }},
      {"fminf of opposite zeros", MEASURED, WORDS, [] { return opposite_zeros(of_words<Minimum>); }},
      {"multiply_add_bf16, rounded sums", MEASURED, FLOATS, real_products<Type::bf16>},
      {"multiply_add_tf32, rounded sums", MEASURED, FLOATS, real_products<Type::tf32>},
      {"multiply_add_bf16, ones beside 2^16 to 2^31", MEASURED, FLOATS, absorbing_products<Type::bf16>},
      {"multiply_add_tf32, ones beside 2^16 to 2^31", MEASURED, FLOATS, absorbing_products<Type::tf32>},
      {"multiply_add_bf16, subnormal", MEASURED, FLOATS, subnormal_products<Type::bf16>},
      {"multiply_add_tf32, subnormal", MEASURED, FLOATS, subnormal_products<Type::tf32>},
      {"expf", MEASURED, FLOATS, approximation<Exponential>(-80, 80)},
      {"logf", MEASURED, FLOATS, approximation<Logarithm>(0, 1000)},
      {"log1pf", MEASURED, FLOATS, approximation<LogarithmOf1Plus>(0, 10)},
      {"powf(x, -0.75f)", MEASURED, FLOATS, approximation<Power>(1, 100)},
      {"tanhf", MEASURED, FLOATS, approximation<Tangent>(-10, 10)},
      {"rsqrtf", MEASURED, FLOATS, approximation<ReciprocalRoot>(1e-3f, 1000)},
      {"__fdividef(1, x)", MEASURED, FLOATS, approximation<FastQuotient>(1e-3f, 1000)},
  };
}

void select_device(int device) {
#ifdef __CUDACC__
  CCONVNET_CHECK(cudaSetDevice(device));
#else
  (void)device;
#endif
}

void select_schedule(const std::string& name) {
#ifdef __CUDACC__
  (void)name;
#else
  using emulator::Schedule;
  emulator::set_schedule(name == "reverse"  ? Schedule::reverse
                         : name == "random" ? Schedule::random
                                            : Schedule::forward,
                         1);
#endif
}

void print(const Check& check, const Words& words) {
  std::printf("{\"check\": \"%s\", \"exact\": %s, \"float\": %s, \"words\": \"", check.name,
              check.exact ? "true" : "false", check.floats ? "true" : "false");
  for (uint32_t word : words) std::printf("%08x", word);
  std::printf("\"}\n");
  std::fflush(stdout);
}

int run(int argc, char** argv) {
  std::vector<std::string> wanted;
  bool list = false;
  for (int i = 1; i < argc; ++i) {
    const std::string word = argv[i];
    if (word == "--list") {
      list = true;
    } else if (word == "--device" && i + 1 < argc) {
      select_device(std::atoi(argv[++i]));
    } else if (word == "--schedule" && i + 1 < argc) {
      select_schedule(argv[++i]);
    } else {
      wanted.push_back(word);
    }
  }
  for (const Check& check : all_checks()) {
    bool chosen = wanted.empty();
    for (const std::string& name : wanted) chosen = chosen || name == check.name;
    if (!chosen) continue;
    if (list) {
      std::printf("%s\n", check.name);
    } else {
      print(check, check.run());
    }
  }
  return 0;
}

}  // namespace

int main(int argc, char** argv) {
  try {
    return run(argc, argv);
  } catch (const std::exception& error) {
    std::fprintf(stderr, "%s\n", error.what());
    return 1;
  }
}
