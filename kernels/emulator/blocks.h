// The blocks of a cluster: the shared memory of others, and their barrier.
#pragma once

#include "machine.h"

namespace cconvnet::emulator {

// The offset of an address in the memory that the launch gave one of the
// blocks.
inline size_t launch_offset(const void* memory) {
  size_t least = SIZE_MAX;
  for (int block = 0; block < machine.cluster_size(); ++block) {
    const char* const first = machine.block(block).launch_shared;
    if (first && first <= memory) least = std::min<size_t>(least, static_cast<const char*>(memory) - first);
  }
  return least;
}

// The place of `bytes` bytes of this block's in the shared memory of another of
// its cluster.
inline char* at_block(const Site& site, unsigned number, const void* memory, size_t bytes) {
  const uint32_t address = machine.shared_address(site, memory, bytes);
  const auto size = static_cast<unsigned>(machine.cluster_size());
  if (number >= size) {
    machine.fail<KernelError>(
        site, "block " + std::to_string(number) + " is named, of a cluster of " + std::to_string(size));
  }
  const Block& block = machine.block(number);
  if (!block.launch_shared || machine.has_ended(number)) {
    machine.fail<KernelError>(site,
                              "block " + std::to_string(number) + " of the cluster has " +
                                  (block.launch_shared ? "ended" : "not begun to use its shared memory"));
  }
  return const_cast<char*>(block.launch_shared) + (address - shared_base);
}

// ---- shared memory of others
// --------------------------------------------------------------------------------

__attribute__((noinline)) inline void load_remote(const Site& site, const void* shared, unsigned block,
                                                  void* value, size_t bytes) {
  const counting::Paused paused;
  const char* const at = at_block(site, block, shared, bytes);
  counting::remote_access(at, bytes, false, __builtin_return_address(0));
  std::memcpy(value, at, bytes);
}

__attribute__((noinline)) inline void store_remote(const Site& site, void* shared, unsigned block,
                                                   const void* value, size_t bytes) {
  const counting::Paused paused;
  char* const at = at_block(site, block, shared, bytes);
  counting::remote_access(at, bytes, true, __builtin_return_address(0));
  std::memcpy(at, value, bytes);
}

// ---- the barrier of a cluster
// -------------------------------------------------------------------------------

struct ClusterBarrier {
  uint64_t cluster_serial = 0;
  int arrived = 0;
  uint64_t passed = 0;
};

inline ClusterBarrier cluster_barrier;

// A GPU counts threads that have returned as arrived. Here all arrive.
inline void arrive_at_cluster(const Site& site) {
  const counting::Paused paused;
  ClusterBarrier& barrier = cluster_barrier;
  if (barrier.cluster_serial != machine.cluster_serial()) barrier = {machine.cluster_serial()};
  Thread& thread = machine.current();
  if (thread.at_cluster) {
    machine.fail<KernelError>(site, "the thread arrives a second time without having waited");
  }
  thread.at_cluster = true;
  thread.cluster_phase = barrier.passed;
  counting::barrier_arrived(&barrier);
  if (++barrier.arrived == machine.cluster_threads()) {
    barrier.arrived = 0;
    ++barrier.passed;
    counting::barrier_phase_ended(&barrier);
  }
}

inline void wait_for_cluster(const Site& site) {
  const counting::Paused paused;
  Thread& thread = machine.current();
  if (!thread.at_cluster) machine.fail<KernelError>(site, "the thread waits without having arrived");
  struct Passed final : Condition {
    const uint64_t phase;

    explicit Passed(uint64_t phase) : phase(phase) {}
    bool is_met() override { return cluster_barrier.passed != phase; }
    std::string text() const override {
      return "the barrier of the cluster, at which " + std::to_string(cluster_barrier.arrived) + " of " +
             std::to_string(machine.cluster_threads()) + " threads have arrived";
    }
  } passed(thread.cluster_phase);
  counting::thread_operation(site.operation, site.file, site.line);
  machine.wait_until(site, passed);
  thread.at_cluster = false;
  counting::barrier_awaited(&cluster_barrier);
}

}  // namespace cconvnet::emulator
