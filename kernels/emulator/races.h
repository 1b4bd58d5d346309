// Finds races: two threads that access the same byte with nothing to order them, at least one writing.
//
// Accesses of threads of one block are ordered by a barrier of the block between them, and those of two lanes
// of a warp also by a __syncwarp, directly or through other lanes. Barriers of some threads order what precedes an
// arrival before what follows a wait for its phase (clocks.h). Nothing else orders memory: of shuffles
// and votes the CUDA C++ Programming Guide says "These intrinsics do not imply a memory barrier" ("Warp Vote
// Functions"; so too "Warp Shuffle Functions"), while __syncwarp "guarantees memory ordering among threads
// participating in the barrier". The PTX ISA promises no order for ldmatrix and mma either. Blocks of a launch
// are not ordered at all. Two atomics do not race.
//
// An asynchronous copy writes from its start until its thread waits for it. In between every access races,
// the thread's own too; afterwards it is a write of that thread. What the copy engine loads is written from the start
// of the load until the phase ends at whose barrier its bytes arrive, and by none of the threads. Products of warp
// groups read their factors, and the copy engine reads what it stores, from the start to the wait for their group.
//
// For each word of memory its last write and some reads since are remembered: the last, the last of
// another lane of the same warp, and the last of another warp or block. So each race that is reported is
// one. One could be missed when three lanes of a warp read, a __syncwarp orders only the two last of them, and one
// of these two writes; or when products of three warps read and only the first of them is not waited for.
#pragma once

#include <algorithm>
#include <array>
#include <cstdint>
#include <memory>
#include <unordered_map>
#include <vector>

#include "clocks.h"

namespace cconvnet::emulator::counting {

// How an access takes part in races.
enum class Role : uint8_t { read, write, atomic, copy };

// The accesses to a byte, or to four that were always accessed together.
struct Cell {
  Stamp write, read, lane_read, other_read;
  Role write_role = Role::write;  // copy: until it is waited for
};

// The cells of a range of memory.
class Words {
 public:
  void resize(uint64_t bytes) { words_.resize((bytes + word_bytes - 1) / word_bytes); }
  void clear() { words_.clear(); }
  uint64_t bytes() const { return words_.size() * word_bytes; }

  // Calls visit(cell, position) for the cells of bytes position .. position + bytes - 1.
  template <class Visit>
  void visit(uint64_t position, uint64_t bytes, Visit visit) {
    const uint64_t end = position + bytes;
    while (position < end) {
      Word& word = words_[position / word_bytes];
      if (!word.parts && position % word_bytes == 0 && end - position >= word_bytes) {
        visit(word.whole, position);
        position += word_bytes;
        continue;
      }
      if (!word.parts) {
        word.parts = std::make_unique<std::array<Cell, word_bytes>>();
        word.parts->fill(word.whole);
      }
      visit((*word.parts)[position % word_bytes], position);
      ++position;
    }
  }

 private:
  static constexpr uint64_t word_bytes = 4;
  struct Word {
    Cell whole;
    std::unique_ptr<std::array<Cell, word_bytes>> parts;
  };
  std::vector<Word> words_;
};

// All of memory, in pages.
class Pages {
 public:
  void clear() { pages_.clear(); }

  template <class Visit>
  void visit(uint64_t address, uint64_t bytes, Visit visit) {
    while (bytes > 0) {
      const uint64_t page = address / page_bytes, first = address % page_bytes;
      const uint64_t part = std::min(bytes, page_bytes - first);
      Words& words = pages_[page];
      if (words.bytes() == 0) words.resize(page_bytes);
      words.visit(first, part, [&](Cell& cell, uint64_t at) { visit(cell, page * page_bytes + at); });
      address += part;
      bytes -= part;
    }
  }

 private:
  static constexpr uint64_t page_bytes = 1024;
  std::unordered_map<uint64_t, Words> pages_;
};

// Notes an access in a cell, and calls race(stamp of the earlier access) for each one that it races with: that
// is not is_before(it).
template <class IsBefore, class Race>
void note(Cell& cell, IsBefore is_before, const Stamp& now, Role role, Race race) {
  const auto against = [&](const Stamp& earlier) {
    if (!is_before(earlier)) race(earlier);
  };
  const bool both_atomic = role == Role::atomic && cell.write_role == Role::atomic;
  if (cell.write.block != 0 && cell.write_role == Role::copy) {
    race(cell.write);
  } else if (!both_atomic) {
    against(cell.write);
  }
  if (role != Role::read) {
    for (const Stamp* read : {&cell.read, &cell.lane_read, &cell.other_read}) against(*read);
    cell = {now, {}, {}, {}, role};
    return;
  }
  const bool same_block = cell.read.block == now.block;
  if (same_block && cell.read.thread / 32 == now.thread / 32) {
    if (cell.read.thread != now.thread) cell.lane_read = cell.read;
  } else if (cell.read.block != 0) {
    cell.other_read = cell.read;
    cell.lane_read = {};
  }
  cell.read = now;
}

}  // namespace cconvnet::emulator::counting
