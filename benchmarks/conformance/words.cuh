// Words of checks: their inputs, their memory on the device, and the bits of floats.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <vector>

#include "core/launch.cuh"

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

// Hard cases for conversions and comparisons: both signs of zeros, subnormals, infinities, NaNs with many
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

}  // namespace
