// The cost of one request of a warp to memory, from the addresses of its lanes.
//
// Global memory is read and written in sectors of 32 bytes (CUDA C++ Best Practices Guide, "Coalesced Access to
// Global Memory"). Shared memory has 32 banks of 4 bytes, and a wavefront serves one word of each bank, to any
// number of lanes (CUDA C++ Programming Guide, "Shared Memory" of compute capability 5.x and later). A
// wavefront returns 128 bytes, so of accesses of 8 and 16 bytes half a warp and a quarter are served at a
// time. A Volta merges two quarters whose lanes have pairwise the same addresses (NVIDIA's developer forum,
// "Unexpected shared memory bank conflict", 2019); since newer chips do not document it, this is left out.
#pragma once

#include <algorithm>
#include <cstdint>
#include <vector>

namespace cconvnet::emulator::counting {

constexpr unsigned sector_bytes = 32, bank_count = 32, bank_bytes = 4;

// An access of `bytes` bytes by each lane in the mask `lanes`.
struct Request {
  uint64_t address[32];
  uint32_t lanes;
  uint32_t site;
};

struct Sectors {
  unsigned touched = 0, least = 0;
};

// Calls visit(sector) for each sector that a request touches, in ascending order.
template <class Visit>
Sectors sectors_of(const Request& request, unsigned bytes, Visit visit) {
  uint64_t begins[32];
  int count = 0;
  for (uint32_t rest = request.lanes; rest; rest &= rest - 1) {
    begins[count++] = request.address[__builtin_ctz(rest)];
  }
  if (!std::is_sorted(begins, begins + count)) std::sort(begins, begins + count);
  Sectors found;
  uint64_t covered = 0, end = 0, next = 0;  // `next` is the first sector not yet visited
  for (int i = 0; i < count; ++i) {
    const uint64_t stop = begins[i] + bytes;
    covered += stop - std::max(begins[i], std::min(end, stop));
    end = stop;
    for (uint64_t s = std::max(begins[i] / sector_bytes, next); s <= (stop - 1) / sector_bytes; ++s) {
      visit(s);
      ++found.touched;
      next = s + 1;
    }
  }
  found.least = static_cast<unsigned>((covered + sector_bytes - 1) / sector_bytes);
  return found;
}

struct Wavefronts {
  unsigned needed = 0, least = 0;
};

// Of one request to shared memory; addresses are relative to its first byte. `bytes` is a power of two.
inline Wavefronts wavefronts_of(const Request& request, unsigned bytes) {
  const unsigned lanes_at_once = bytes <= 4 ? 32 : 128 / bytes;
  Wavefronts found;
  for (unsigned first = 0; first < 32; first += lanes_at_once) {
    uint64_t words[bank_count][32];
    unsigned counts[bank_count] = {}, most = 0;
    for (unsigned lane = first; lane < first + lanes_at_once; ++lane) {
      if (!(request.lanes >> lane & 1)) continue;
      const uint64_t address = request.address[lane];
      for (uint64_t w = address / bank_bytes; w <= (address + bytes - 1) / bank_bytes; ++w) {
        uint64_t* const bank = words[w % bank_count];
        unsigned& count = counts[w % bank_count];
        if (std::find(bank, bank + count, w) != bank + count) continue;
        bank[count++] = w;
        most = std::max(most, count);
      }
    }
    found.needed += most;
    found.least += most > 0;
  }
  return found;
}

// A first-level cache of sectors: 16 ways, of which the one that was used longest ago is replaced.
class Cache {
 public:
  explicit Cache(uint64_t bytes) : sets_(std::max<uint64_t>(bytes / (ways * sector_bytes), 1)) {}

  void clear() {
    lines_.assign(sets_ * ways, {});
    time_ = 0;
  }

  // Returns true if the sector is absent, and keeps it.
  bool misses(uint64_t sector) {
    Line* const set = &lines_[sector % sets_ * ways];
    Line* oldest = set;
    for (Line* line = set; line < set + ways; ++line) {
      if (line->used && line->sector == sector) {
        line->used = ++time_;
        return false;
      }
      if (line->used < oldest->used) oldest = line;
    }
    *oldest = {sector, ++time_};
    return true;
  }

 private:
  static constexpr unsigned ways = 16;
  struct Line {
    uint64_t sector = 0, used = 0;  // when it was used; 0: empty
  };
  uint64_t sets_, time_ = 0;
  std::vector<Line> lines_;
};

}  // namespace cconvnet::emulator::counting
