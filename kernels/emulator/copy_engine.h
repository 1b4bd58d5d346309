// The copy engine: copies boxes of arrays, described by tensor maps, to and from shared memory.
//
// From its start until it is done the target of a load contains NaN (all bits 1); when it is done depends on the
// schedule (machine.h). A store reads shared memory at once in forward order, in others only when it is waited for. So
// a missing wait shows, and so does memory that is used again too early.
#pragma once

#include <array>
#include <cstring>

#include "core/tensor_map.h"
#include "dependents.h"
#include "phases.h"

namespace cconvnet::emulator {

using Coordinates = std::array<int, 5>;

// The elements of a box in the order in which shared memory contains them: by lines of neighbours along the first
// dimension.
class Box {
 public:
  Box(const Site& site, const TensorMap& map, const Coordinates& at, int offset_w, int offset_h)
      : map_(map), at_(at), offset_w_(offset_w), offset_h_(offset_h) {
    lines_ = map.windows ? map.box[1] : 1;
    for (int i = 1; i < map.rank && !map.windows; ++i) lines_ *= map.box[i];
    line_bytes_ = map.box[0] * map.element_bytes;
    if (!map.windows) return;
    if (offset_w < 0 || offset_w > 255 || offset_h < 0 || offset_h > 255) {
      machine.fail<KernelError>(site, "an offset of windows is not from 0 to 255");
    }
    for (int i = 0; i < 2; ++i) {
      const int64_t more = int64_t{at[1 + i]} - map.lower[i];
      if (more < 0 || at[1 + i] > last(i) || more % map.step[i] != 0) {
        machine.fail<KernelError>(site, "no window of the tensor map begins at " + std::to_string(at[1 + i]) +
                                            " along " + (i == 0 ? "w" : "h"));
      }
    }
  }

  int64_t bytes() const { return int64_t{lines_} * line_bytes_; }

  // Tells the counting build what is moved.
  void count([[maybe_unused]] bool stores, [[maybe_unused]] void* caller) const {
#ifdef CCONVNET_COUNTING
    std::vector<counting::BoxLine> lines;
    visit_chunks([&](uint32_t byte, const char* place, int64_t first, int64_t end) {
      if (end <= first) return;
      const bool goes_on = byte % static_cast<uint32_t>(line_bytes_) != 0 && !lines.empty() &&
                           lines.back().first + lines.back().bytes == place + first;
      if (!goes_on) lines.push_back({place + first, 0});
      lines.back().bytes += static_cast<size_t>(end - first);
    });
    counting::box_moved(stores ? counting::Kind::box_store : counting::Kind::box_load, lines,
                        static_cast<size_t>(bytes()), caller);
#endif
  }

  // Calls visit(byte, chunk, first, end) for each chunk of 16 bytes: where it is in the box and in global memory, and
  // which of its bytes are in the array, from `first` to before `end`.
  template <class Visit>
  void visit_chunks(const Visit& visit) const {
    Coordinates line = at_;
    for (int l = 0; l < lines_; ++l) {
      const char* row = map_.data;
      bool inside = true;
      for (int i = 1; i < map_.rank; ++i) {
        int64_t place = line[i];
        if (map_.windows && i == 1) place += offset_w_;
        if (map_.windows && i == 2) place += offset_h_;
        inside = inside && place >= 0 && place < map_.size[i];
        row += place * static_cast<int64_t>(map_.stride[i - 1]);
      }
      for (int byte = 0; byte < line_bytes_; byte += 16) {
        const int64_t at = int64_t{at_[0]} * map_.element_bytes + byte;
        const int64_t row_bytes = int64_t{map_.size[0]} * map_.element_bytes;
        const int64_t first = inside ? std::clamp<int64_t>(-at, 0, 16) : 16;
        const int64_t end = inside ? std::clamp<int64_t>(row_bytes - at, first, 16) : 16;
        visit(static_cast<uint32_t>(l * line_bytes_ + byte), row + at, first, end);
      }
      advance(line);
    }
  }

 private:
  // The last base pixel of a dimension, w or h.
  int last(int i) const { return static_cast<int>(map_.size[1 + i]) - 1 + map_.upper[i]; }

  void advance(Coordinates& line) const {
    for (int i = 1; i < map_.rank; ++i) {
      if (map_.windows) {
        if (i == 3) {
          ++line[3];
          return;
        }
        line[i] += map_.step[i - 1];
        if (line[i] <= last(i - 1)) return;
        line[i] = map_.lower[i - 1];
      } else {
        if (++line[i] < at_[i] + map_.box[i]) return;
        line[i] = at_[i];
      }
    }
  }

  const TensorMap map_;
  const Coordinates at_;
  const int offset_w_, offset_h_;
  int lines_, line_bytes_;
};

inline void check_shared_box(const Site& site, const void* shared, const TensorMap& map, const Box& box,
                             int rank) {
  if (map.rank != rank) {
    machine.fail<KernelError>(site, "the tensor map has " + std::to_string(map.rank) + " dimensions");
  }
  const uint32_t address = machine.shared_address(site, shared, static_cast<size_t>(box.bytes()));
  const int boundary = pattern_bytes(static_cast<Swizzle>(map.swizzle));
  if ((address - shared_base) % static_cast<uint32_t>(boundary) != 0) {
    machine.fail<KernelError>(site,
                              "shared memory is not on a boundary of " + std::to_string(boundary) + " bytes");
  }
}

// Starts a load. Its bytes arrive at the barrier. If a mask names blocks of the cluster, the box comes to the same
// place in each of them, and its bytes at the barrier of each.
__attribute__((noinline)) inline void start_load(const Site& site, void* shared, const TensorMap& map,
                                                 uint64_t& barrier, unsigned mask, int rank,
                                                 const Coordinates& at, int offset_w, int offset_h) {
  const counting::Paused paused;
  check_waited(site);
  const Box box(site, map, at, offset_w, offset_h);
  check_shared_box(site, shared, map, box, rank);
  void* const caller = __builtin_return_address(0);
  box.count(false, caller);
  const auto bytes = static_cast<size_t>(box.bytes());
  const auto swizzle = static_cast<Swizzle>(map.swizzle);
  const auto own = static_cast<unsigned>(machine.cluster_rank());
  const auto start = [&](unsigned block, char* target, uint64_t* arrival) {
    Phase::at(site, *arrival);
    counting::load_started(target, bytes, arrival, caller);
    std::memset(target, 0xff, bytes);
    machine.start_beside([site, box, swizzle, block, target, arrival] {
      if (machine.has_ended(block)) {
        machine.fail<KernelError>(site, "the box comes to a block that has ended");
      }
      box.visit_chunks([&](uint32_t byte, const char* from, int64_t first, int64_t end) {
        char* const to = target + swizzled(swizzle, byte);
        std::memset(to, 0, 16);
        if (end > first) std::memcpy(to + first, from + first, static_cast<size_t>(end - first));
      });
      bytes_came(site, *arrival, box.bytes());
    });
  };
  if (mask == 0) return start(own, static_cast<char*>(shared), &barrier);
  for (unsigned block = 0; mask >> block; ++block) {
    if (!(mask >> block & 1)) continue;
    char* const arrival = at_block(site, block, &barrier, sizeof barrier);
    start(block, at_block(site, block, shared, bytes), reinterpret_cast<uint64_t*>(arrival));
    if (block != own) counting::box_came(bytes, caller);
  }
}

__attribute__((noinline)) inline void start_store(const Site& site, const void* shared, const TensorMap& map,
                                                  int rank, const Coordinates& at) {
  const counting::Paused paused;
  check_waited(site);
  const Box box(site, map, at, 0, 0);
  check_shared_box(site, shared, map, box, rank);
  if (map.windows) machine.fail<KernelError>(site, "stores to windows are not supported");
  box.count(true, __builtin_return_address(0));
  const auto swizzle = static_cast<Swizzle>(map.swizzle);
  const char* const source = static_cast<const char*>(shared);
  std::function<void()> work = [box, swizzle, source] {
    box.visit_chunks([&](uint32_t byte, const char* to, int64_t first, int64_t end) {
      if (end <= first) return;
      std::memcpy(const_cast<char*>(to) + first, source + swizzled(swizzle, byte) + first,
                  static_cast<size_t>(end - first));
    });
  };
  if (machine.schedule() == Schedule::forward) {
    work();
    work = nullptr;
  }
  Thread& thread = machine.current();
  counting::store_started(shared, static_cast<size_t>(box.bytes()), thread.store_groups,
                          __builtin_return_address(0));
  thread.stores.push_back({std::move(work), thread.store_groups});
}

inline void close_store_group() {
  ++machine.current().store_groups;
}

// Waits for all but the thread's last `pending` groups of stores.
inline void wait_for_stores(unsigned pending) {
  const counting::Paused paused;
  Thread& thread = machine.current();
  size_t done = 0;
  for (; done < thread.stores.size() && thread.stores[done].group + pending < thread.store_groups; ++done) {
    if (thread.stores[done].work) thread.stores[done].work();
  }
  thread.stores.erase(thread.stores.begin(), thread.stores.begin() + static_cast<std::ptrdiff_t>(done));
  counting::stores_done(thread.store_groups - std::min(pending, thread.store_groups));
}

}  // namespace cconvnet::emulator
