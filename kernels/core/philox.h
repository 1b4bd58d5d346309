// Philox4x32-10, a counter-based random generator: four random 32-bit words are a pure function of a 128-bit
// counter and a 64-bit key. So a dropout mask is drawn again instead of stored, any thread can draw any part
// of it, and it is the same on every device and after a resume. Source: Salmon, Moraes, Dror, Shaw, "Parallel
// random numbers: as easy as 1, 2, 3", SC 2011.
#pragma once

#include <cstdint>

#include "core/host_device.h"

namespace cconvnet {

struct PhiloxWords {
  uint32_t word[4];
};

// The four words of counter (`block`, 0, `subsequence`) under the key `seed`; low halves come first.
CCONVNET_HOST_DEVICE PhiloxWords philox4x32_10(uint32_t block, uint64_t subsequence, uint64_t seed) {
  uint32_t c0 = block, c1 = 0;
  uint32_t c2 = static_cast<uint32_t>(subsequence), c3 = static_cast<uint32_t>(subsequence >> 32);
  uint32_t key0 = static_cast<uint32_t>(seed), key1 = static_cast<uint32_t>(seed >> 32);
  for (int round = 0; round < 10; ++round) {
    const uint64_t product0 = uint64_t{0xD2511F53u} * c0;
    const uint64_t product1 = uint64_t{0xCD9E8D57u} * c2;
    c0 = static_cast<uint32_t>(product1 >> 32) ^ c1 ^ key0;
    c1 = static_cast<uint32_t>(product1);
    c2 = static_cast<uint32_t>(product0 >> 32) ^ c3 ^ key1;
    c3 = static_cast<uint32_t>(product0);
    key0 += 0x9E3779B9u;  // the golden ratio
    key1 += 0xBB67AE85u;  // sqrt(3) - 1
  }
  return {{c0, c1, c2, c3}};
}

// The word that belongs to element `index` of a tensor.
CCONVNET_HOST_DEVICE uint32_t philox_word(uint32_t index, uint64_t subsequence, uint64_t seed) {
  const PhiloxWords drawn = philox4x32_10(index / 4, subsequence, seed);
  // By selection: a GPU would have to place an array with a computed index in memory.
  const uint32_t first = index & 1 ? drawn.word[1] : drawn.word[0];
  const uint32_t second = index & 1 ? drawn.word[3] : drawn.word[2];
  return index & 2 ? second : first;
}

// The dropout rule: a word below `threshold` = keep * 2^32 keeps its element, a larger one makes it 0.
// A dropped element is 0 even where x is NaN or infinite. `threshold` has 64 bits so that keep = 1 keeps all.
CCONVNET_HOST_DEVICE float dropout_value(float x, float scale, uint32_t word, uint64_t threshold) {
  return word < threshold ? x * scale : 0.0f;
}

}  // namespace cconvnet
