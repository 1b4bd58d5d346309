// Random numbers for the order in which threads and blocks run.
#pragma once

#include <cstdint>
#include <numeric>

namespace cconvnet::emulator {

// SplitMix64 (Steele, Lea, Flood 2014): the same numbers from the same seed with every standard library.
class Random {
 public:
  explicit Random(uint64_t seed) : state_(seed) {}

  // A number below `bound`.
  uint64_t below(uint64_t bound) {
    uint64_t z = state_ += 0x9e3779b97f4a7c15u;
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return (z ^ (z >> 31)) % bound;
  }

  // A number below `count` that shares no divisor with it: steps of it walk round all numbers, without memory.
  uint64_t step(uint64_t count) {
    for (;;) {
      const uint64_t step = 1 + below(count);
      if (std::gcd(step, count) == 1) return step;
    }
  }

 private:
  uint64_t state_;
};

}  // namespace cconvnet::emulator
