// The order of a block's threads, and of work beside them, by vector clocks (races.h).
//
// A thread's own clock counts what it has released: its __syncwarps, and its arrivals at barriers of some of the block's
// threads. It knows clocks of others from the lanes that it met, and from the phases that it has waited for. All
// clocks begin anew at each barrier of the block.
//
// The work beside them is done by agents, which have clocks too: the copy engine, an agent for each barrier at which
// its bytes arrive, whose clock counts the barrier's phases; the tensor cores, an agent for each warp, whose clock counts
// the groups of products that the warp has closed; and the engine's stores, an agent for each thread that starts some,
// whose clock counts its groups. A barrier of the block does not wait for them.
#pragma once

#include <algorithm>
#include <array>
#include <cstdint>
#include <map>
#include <vector>

#include "errors.h"

namespace cconvnet::emulator::counting {

struct Stamp {
  uint32_t site = 0;
  uint32_t block = 0;   // 0: no access; else the number of the block plus 1
  uint32_t epoch = 0;   // barriers that the block had passed
  uint16_t thread = 0;  // or an agent
  uint16_t clock = 0;   // its own
};

class Order {
 public:
  // The blocks of a cluster count as one, whose number is that of the first.
  void begin_block(uint32_t block, int threads, int blocks) {
    if (threads * blocks > first_agent) {
      throw KernelError("a cluster of " + std::to_string(threads * blocks) +
                        " threads; the build that counts knows up to " + std::to_string(first_agent));
    }
    block_ = block;
    block_threads_ = threads;
    threads_ = threads * blocks;
    epoch_ = 0;
    whole_ = false;
    meetings_.clear();
    forget();
  }

  void pass_barrier(int block) {
    if (block_threads_ == threads_) {
      ++epoch_;
      forget();
      return;
    }
    // Threads of the other blocks are not ordered.
    begin_whole();
    Clocks known{};
    const int first = block * block_threads_, end = first + block_threads_;
    for (int thread = first; thread < end; ++thread) {
      tick(clocks_[thread][thread]);
      merge(known, clocks_[thread]);
    }
    for (int thread = first; thread < end; ++thread) merge(clocks_[thread], known);
  }

  void join(int warp, uint32_t lanes) {
    if (whole_) {
      Clocks joined{};
      for_lanes(warp, lanes, [&](int thread) {
        tick(clocks_[thread][thread]);
        merge(joined, clocks_[thread]);
      });
      for_lanes(warp, lanes, [&](int thread) { merge(clocks_[thread], joined); });
      return;
    }
    joined_ = true;
    std::array<uint16_t, 32> joined{};
    for_lanes(warp, lanes, [&](int thread) {
      tick(seen_[thread][thread % 32]);
      for (int other = 0; other < 32; ++other) joined[other] = std::max(joined[other], seen_[thread][other]);
    });
    for_lanes(warp, lanes, [&](int thread) { seen_[thread] = joined; });
  }

  // ---- barriers of some threads, named by their addresses ---------------------------------------------------

  void arrive(int thread, const void* barrier) {
    begin_whole();
    tick(clocks_[thread][thread]);
    merge(meeting(barrier).arrived, clocks_[thread]);
  }
  void end_phase(const void* barrier) {
    begin_whole();
    Meeting& at = meeting(barrier);
    merge(at.passed, at.arrived);
    tick(at.passed[at.agent]);
  }
  void pass(int thread, const void* barrier) {
    begin_whole();
    merge(clocks_[thread], meeting(barrier).passed);
  }

  // ---- agents ------------------------------------------------------------------------------------------------

  // A load that `thread` starts, whose bytes arrive at the barrier.
  Stamp load_stamp(int thread, const void* barrier, uint32_t site) {
    begin_whole();
    const Meeting& at = meeting(barrier);
    return agent_stamp(at.agent, thread, at.passed[at.agent], site);
  }
  // A store that belongs to a thread's group of this number.
  Stamp store_stamp(int thread, unsigned group, uint32_t site) {
    begin_whole();
    return agent_stamp(meeting(&seen_[thread]).agent, thread, clamped(group), site);
  }
  void end_stores(int thread, unsigned groups) {
    begin_whole();
    clocks_[thread][meeting(&seen_[thread]).agent] = clamped(groups);
  }
  // A product of a warp's group of this number.
  Stamp product_stamp(int warp, unsigned group, uint32_t site) {
    begin_whole();
    return agent_stamp(first_agent + warp, warp * 32, clamped(group), site);
  }
  void end_products(int warp, unsigned groups) {
    begin_whole();
    for_lanes(warp, ~0u, [&](int thread) { clocks_[thread][first_agent + warp] = clamped(groups); });
  }

  // ---- accesses ----------------------------------------------------------------------------------------------

  Stamp stamp(int thread, uint32_t site) const {
    const uint16_t own = whole_ ? clocks_[thread][thread] : seen_[thread][thread % 32];
    return {site, block_ + 1, epoch_, static_cast<uint16_t>(thread), own};
  }

  // Returns true if an earlier access is ordered before one that `thread` makes now, or starts.
  bool before(const Stamp& earlier, int thread) const {
    if (earlier.block == 0) return true;
    if (earlier.block != block_ + 1) return false;
    if (earlier.thread < first_agent) {
      if (earlier.epoch != epoch_ || earlier.thread == thread) return true;
      if (!whole_ && earlier.thread / 32 != thread / 32) return false;
    }
    const uint16_t seen = whole_ ? clocks_[thread][earlier.thread] : seen_[thread][earlier.thread % 32];
    return seen > earlier.clock || seen == UINT16_MAX;
  }

  // The same for all lanes of a warp.
  bool before_warp(const Stamp& earlier, int warp) const {
    for (int lane = 0; lane < 32; ++lane) {
      if (!before(earlier, warp * 32 + lane)) return false;
    }
    return true;
  }

  // The thread of a stamp, or the one that started the agent's last work.
  int thread_of(const Stamp& stamp) const {
    return stamp.thread < first_agent ? stamp.thread : starter_[stamp.thread - first_agent];
  }

 private:
  // Of the threads of a block or cluster, then of agents: those of the warps' products, then those of meetings.
  static constexpr int first_agent = 4096, warps = first_agent / 32, agents = 512;
  using Clocks = std::array<uint16_t, first_agent + agents>;

  struct Meeting {
    int agent;
    Clocks arrived{}, passed{};
  };

  // At the end of the range everything counts as ordered, so that no race is made up.
  static uint16_t clamped(unsigned clock) {
    return static_cast<uint16_t>(std::min<unsigned>(clock, UINT16_MAX));
  }
  static void tick(uint16_t& clock) { clock = clamped(clock + 1u); }

  template <class Visit>
  static void for_lanes(int warp, uint32_t lanes, Visit visit) {
    for (uint32_t rest = lanes; rest; rest &= rest - 1) visit(warp * 32 + __builtin_ctz(rest));
  }

  void merge(Clocks& into, const Clocks& from) const {
    for (int i = 0; i < threads_; ++i) into[i] = std::max(into[i], from[i]);
    const int end = first_agent + std::min(warps + static_cast<int>(meetings_.size()), agents);
    for (int i = first_agent; i < end; ++i) into[i] = std::max(into[i], from[i]);
  }

  Meeting& meeting(const void* barrier) {
    const auto [place, added] = meetings_.try_emplace(barrier);
    // The last number is shared by all that are left.
    if (added) {
      place->second.agent = first_agent + std::min(warps + static_cast<int>(meetings_.size()), agents) - 1;
    }
    return place->second;
  }

  Stamp agent_stamp(int agent, int thread, uint16_t clock, uint32_t site) {
    starter_[agent - first_agent] = thread;
    return {site, block_ + 1, epoch_, static_cast<uint16_t>(agent), clock};
  }

  // From the first barrier of some threads on a block's threads know clocks of all others; before, and in kernels
  // without, only those of their warp's lanes.
  void begin_whole() {
    if (whole_) return;
    whole_ = true;
    clocks_.assign(threads_, {});
    for (int thread = 0; thread < threads_ && joined_; ++thread) {
      std::copy(seen_[thread].begin(), seen_[thread].end(), clocks_[thread].begin() + thread / 32 * 32);
    }
    forget_lanes();
  }

  void forget_lanes() {
    if (joined_) seen_.fill({});
    joined_ = false;
  }

  void forget() {
    forget_lanes();
    if (!whole_) return;
    Clocks known{};
    for (Clocks& clocks : clocks_) merge(known, clocks);
    const auto without_threads = [](Clocks& clocks) {
      std::fill_n(clocks.begin(), first_agent, uint16_t{0});
    };
    without_threads(known);
    std::fill(clocks_.begin(), clocks_.end(), known);
    for (auto& [barrier, at] : meetings_) {
      without_threads(at.arrived);
      without_threads(at.passed);
    }
  }

  uint32_t block_ = 0, epoch_ = 0;
  int block_threads_ = 0, threads_ = 0;
  bool joined_ = false;  // since the last barrier
  // Of a thread: the clocks of its warp's lanes that it knows.
  std::array<std::array<uint16_t, 32>, first_agent> seen_{};
  bool whole_ = false;
  std::vector<Clocks> clocks_;  // of a thread: all that it knows
  std::map<const void*, Meeting> meetings_;
  std::array<int, agents> starter_{};
};

}  // namespace cconvnet::emulator::counting
