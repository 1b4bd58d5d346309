// Barriers of some of a block's threads: mbarriers, objects in shared memory on which the copy engine arrives too,
// and the 16 named barriers of a block.
//
// An mbarrier has phases. One ends when as many threads have arrived as the barrier was initialised with, and as
// many bytes as they announced; then the next begins. The parity of a phase is that of its number, so a thread
// that waits names the phase it means only if it is never two phases behind.
#pragma once

#include <cstdint>
#include <string>

#include "blocks.h"

namespace cconvnet::emulator {

// The value of an mbarrier. Memory that is not initialised contains all bits 1, which is none.
class Phase {
 public:
  // PTX ISA, "Size and alignment of mbarrier object": the limits of both counts.
  static constexpr uint32_t most_arrivals = (1u << 20) - 1;
  static constexpr int32_t most_bytes = (1 << 20) - 1;

  static Phase first(uint32_t arrivals) { return Phase(arrivals, arrivals, 0, false); }

  // Reads the state of a barrier; `site` is where it is used.
  static Phase at(const Site& site, const uint64_t& state) {
    if (reinterpret_cast<uintptr_t>(&state) % sizeof(state) != 0) {
      machine.fail<KernelError>(site, "the barrier is not on a boundary of 8 bytes");
    }
    if (state >> 62 != 1) machine.fail<KernelError>(site, "the barrier is not initialised");
    return Phase(state & most_arrivals, state >> 20 & most_arrivals,
                 static_cast<int32_t>(state >> 40 & 0x1fffff) - (1 << 20), state >> 61 & 1);
  }

  uint64_t state() const {
    return uint64_t{1} << 62 | uint64_t{parity_} << 61 | static_cast<uint64_t>(bytes_ + (1 << 20)) << 40 |
           uint64_t{pending_} << 20 | expected_;
  }

  bool parity() const { return parity_; }

  void arrive(const Site& site, uint32_t count) {
    if (count > pending_) {
      machine.fail<KernelError>(site, "more threads arrive than the " + std::to_string(expected_) +
                                          " for which the barrier was initialised");
    }
    pending_ -= count;
    end_if_complete();
  }

  // Announces bytes, or counts those that have come if negative.
  void expect(const Site& site, int64_t bytes) {
    if (bytes_ + bytes > most_bytes || bytes_ + bytes < -most_bytes) {
      machine.fail<KernelError>(site, "the barrier expects more than 1 MiB");
    }
    bytes_ += static_cast<int32_t>(bytes);
    end_if_complete();
  }

  std::string missing() const {
    return std::to_string(pending_) + " of " + std::to_string(expected_) + " threads and " +
           std::to_string(bytes_) + " bytes are missing";
  }

 private:
  Phase(uint64_t expected, uint64_t pending, int32_t bytes, bool parity)
      : expected_(static_cast<uint32_t>(expected)),
        pending_(static_cast<uint32_t>(pending)),
        bytes_(bytes),
        parity_(parity) {}

  void end_if_complete() {
    if (pending_ > 0 || bytes_ != 0) return;
    parity_ = !parity_;
    pending_ = expected_;
  }

  uint32_t expected_, pending_;
  int32_t bytes_;
  bool parity_;
};

inline void init_barrier(const Site& site, uint64_t& state, uint32_t arrivals) {
  const counting::Paused paused;
  if (arrivals < 1 || arrivals > Phase::most_arrivals) {
    machine.fail<KernelError>(site, "a barrier of " + std::to_string(arrivals) + " threads");
  }
  state = Phase::first(arrivals).state();
}

// Calls change(phase) with a barrier's value, and stores it.
template <class Change>
void change_phase(const Site& site, uint64_t& state, Change change) {
  Phase phase = Phase::at(site, state);
  const bool parity = phase.parity();
  change(phase);
  state = phase.state();
  if (phase.parity() != parity) counting::barrier_phase_ended(&state);
}

// Expects `bytes` more in this phase, then arrives.
inline void arrive(const Site& site, uint64_t& state, int64_t bytes) {
  const counting::Paused paused;
  change_phase(site, state, [&](Phase& phase) {
    if (bytes != 0) phase.expect(site, bytes);
    phase.arrive(site, 1);
    counting::barrier_arrived(&state);
  });
}

// Of the copy engine.
inline void bytes_came(const Site& site, uint64_t& state, int64_t bytes) {
  change_phase(site, state, [&](Phase& phase) { phase.expect(site, -bytes); });
}

// Waits until the phase of this parity has ended.
inline void wait_for_phase(const Site& site, const uint64_t& state, bool parity) {
  const counting::Paused paused;
  struct Ended final : Condition {
    const Site& site;
    const uint64_t& state;
    const bool parity;

    Ended(const Site& site, const uint64_t& state, bool parity) : site(site), state(state), parity(parity) {}
    bool is_met() override { return Phase::at(site, state).parity() != parity; }
    std::string text() const override {
      return "the phase of parity " + std::to_string(parity) + " of the barrier at byte " +
             std::to_string(launch_offset(&state)) + " of the launch's shared memory, of which " +
             Phase::at(site, state).missing();
    }
  } ended(site, state, parity);
  counting::thread_operation(site.operation, site.file, site.line);
  machine.wait_until(site, ended);
  counting::barrier_awaited(&state);
}

// ---- named barriers -------------------------------------------------------------------------------------

struct NamedBarrier {
  uint64_t block_serial = 0;
  int threads = 0,
      arrived = 0;  // expected and arrived; of no thread before the first arrives
  uint64_t passed = 0;
};

inline NamedBarrier named_barriers[max_cluster][16];

// Arrives at a barrier of so many threads, and waits for all of them.
inline void meet(const Site& site, unsigned number, int threads) {
  const counting::Paused paused;
  if (number < 1 || number > 15) {
    machine.fail<KernelError>(site,
                              "threads may meet at the barriers 1 to 15, not " + std::to_string(number));
  }
  if (threads <= 0 || threads % lanes_per_warp != 0 || threads > machine.thread_count()) {
    machine.fail<KernelError>(site, "a barrier of " + std::to_string(threads) + " threads in a block of " +
                                        std::to_string(machine.thread_count()));
  }
  NamedBarrier& barrier = named_barriers[machine.cluster_rank()][number];
  if (barrier.block_serial != machine.block_serial()) {
    barrier = {};
    barrier.block_serial = machine.block_serial();
  }
  if (barrier.arrived == 0) barrier.threads = threads;
  if (barrier.threads != threads) {
    machine.fail<KernelError>(site, "others await " + std::to_string(barrier.threads) +
                                        " threads at barrier " + std::to_string(number) + ", this one " +
                                        std::to_string(threads));
  }
  struct Passed final : Condition {
    const NamedBarrier& barrier;
    const unsigned number;
    const uint64_t turn;

    Passed(const NamedBarrier& barrier, unsigned number)
        : barrier(barrier), number(number), turn(barrier.passed) {}
    bool is_met() override { return barrier.passed != turn; }
    std::string text() const override {
      return "barrier " + std::to_string(number) + ", at which " + std::to_string(barrier.arrived) + " of " +
             std::to_string(barrier.threads) + " threads have arrived";
    }
  } passed(barrier, number);
  counting::barrier_arrived(&barrier);
  if (++barrier.arrived == barrier.threads) {
    barrier.arrived = 0;
    ++barrier.passed;
    counting::barrier_phase_ended(&barrier);
  }
  machine.wait_until(site, passed);
  counting::barrier_awaited(&barrier);
}

// ---- roles ----------------------------------------------------------------------------------------------------

// Elects a lane of a warp: the first in forward order, the last in reverse order. A chip's choice is not documented,
// but that it is always the same.
inline bool is_elected(const Site& site) {
  unsigned elected = 0;
  machine.warp_operation(site, ~0u, elected, [](unsigned* const* lanes, unsigned) {
    const uint64_t pick = machine.schedule() == Schedule::forward ? 0
                          : machine.schedule() == Schedule::reverse
                              ? lanes_per_warp - 1
                              : machine.block_serial() * 7 % lanes_per_warp;
    for (int lane = 0; lane < lanes_per_warp; ++lane) *lanes[lane] = static_cast<uint64_t>(lane) == pick;
  });
  return elected != 0;
}

// Of each warp group the registers of a thread, as last set.
struct GroupRegisters {
  uint64_t block_serial = 0;
  int registers[max_threads / 128] = {};
};

inline GroupRegisters group_registers[max_cluster];

// All groups of a block must set them in the end, to no more than a multiprocessor has.
inline void set_registers(const Site& site, int registers) {
  unsigned nothing = 0;
  machine.warp_operation(site, ~0u, nothing, [&](unsigned* const*, unsigned) {
    GroupRegisters& own = group_registers[machine.cluster_rank()];
    if (own.block_serial != machine.block_serial()) {
      own = {};
      own.block_serial = machine.block_serial();
    }
    const int groups = machine.thread_count() / 128;
    own.registers[machine.thread_rank() / 128] = registers;
    int sum = 0;
    bool all = true;
    for (int i = 0; i < groups; ++i) {
      sum += 128 * own.registers[i];
      all = all && own.registers[i] > 0;
    }
    if (machine.thread_count() % 128 != 0 || (all && sum > 64 * 1024)) {
      machine.fail<KernelError>(site,
                                "the block's groups want " + std::to_string(sum) + " registers of 65536");
    }
  });
}

}  // namespace cconvnet::emulator
