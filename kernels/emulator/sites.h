// Where accesses to memory are counted: the instructions that make them (counting.cpp).
#pragma once

#include <link.h>

#include <cstdint>
#include <map>
#include <tuple>
#include <vector>

#include "counting.h"

namespace cconvnet::emulator::counting {

// The program or module that contains this code.
struct Image {
  uintptr_t base = 0, begin = 0, end = 0;

  Image() { dl_iterate_phdr(&Image::take, this); }

  bool contains(uintptr_t address) const { return address - begin < end - begin; }

 private:
  // Takes the addresses of one object file, and returns 1 if it is this one.
  static int take(dl_phdr_info* info, size_t, void* data) {
    Image& image = *static_cast<Image*>(data);
    image.base = info->dlpi_addr;
    image.begin = UINTPTR_MAX;
    image.end = 0;
    for (int i = 0; i < info->dlpi_phnum; ++i) {
      if (info->dlpi_phdr[i].p_type != PT_LOAD) continue;
      const uintptr_t first = info->dlpi_addr + info->dlpi_phdr[i].p_vaddr;
      image.begin = std::min(image.begin, first);
      image.end = std::max(image.end, first + info->dlpi_phdr[i].p_memsz);
    }
    return image.contains(reinterpret_cast<uintptr_t>(&state));
  }
};

// Wide accesses are made in pieces; `piece` tells them apart.
struct Site {
  uintptr_t caller;
  Kind kind;
  Space space;
  uint8_t bytes, piece;

  bool operator<(const Site& other) const {
    return std::tie(caller, kind, space, bytes, piece) <
           std::tie(other.caller, other.kind, other.space, other.bytes, other.piece);
  }
};

// Numbers sites, with the last number of each caller at hand.
class Sites {
 public:
  uint32_t number(const Site& site) {
    Recent& recent = recent_[(site.caller * 0x9e3779b97f4a7c15u >> 48) ^ site.piece];
    if (recent.number < all_.size()) {
      const Site& known = all_[recent.number];
      if (known.caller == site.caller && known.kind == site.kind && known.space == site.space &&
          known.bytes == site.bytes && known.piece == site.piece) {
        return recent.number;
      }
    }
    const auto [place, added] = numbers_.try_emplace(site, static_cast<uint32_t>(all_.size()));
    if (added) all_.push_back(site);
    recent.number = place->second;
    return recent.number;
  }

  const Site& operator[](uint32_t number) const { return all_[number]; }
  size_t size() const { return all_.size(); }

 private:
  struct Recent {
    uint32_t number = UINT32_MAX;
  };
  std::vector<Site> all_;
  std::map<Site, uint32_t> numbers_;
  std::vector<Recent> recent_ = std::vector<Recent>(1 << 16);
};

}  // namespace cconvnet::emulator::counting
