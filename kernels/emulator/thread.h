// A thread of the emulator: where it waits, and the copies that it has started.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "errors.h"
#include "fiber.h"
#include "vector_types.h"

namespace cconvnet::emulator {

// The order in which blocks, and the threads of a block, take their turns. Correct kernels give the same
// result under each; a missing barrier rarely does.
enum class Schedule { forward, reverse, random };

// A copy to shared memory that a thread has started; a null source means zeros.
struct AsyncCopy {
  void* target;
  const void* source;
  unsigned group;  // how many groups the thread had closed before
};

// A store from shared memory by the copy engine that a thread has started.
struct AsyncStore {
  std::function<void()> work;  // empty once it is done
  unsigned group;
};

// For which a thread waits, other than for threads at the same line.
struct Condition {
  virtual bool is_met() = 0;
  virtual std::string text() const = 0;  // behind "waits for"

 protected:
  ~Condition() = default;
};

struct Thread {
  uint3 index;
  int block = 0;           // in its cluster
  Fiber* fiber = nullptr;  // null before the thread starts and after it returns
  // While it waits:
  Site site;
  unsigned mask;  // the lanes it waits for; 0 at a barrier of the whole block
  void* operand;  // its own, on its stack
  Condition* condition = nullptr;
  // Its asynchronous copies to shared memory:
  std::vector<AsyncCopy> copies;
  unsigned groups = 0;
  // Its stores by the copy engine:
  std::vector<AsyncStore> stores;
  unsigned store_groups = 0;
  // Whether it has waited for the kernel ahead; whether it touched global memory earlier, as far as that is seen.
  bool waited = false, early = false;
  // Whether it has arrived at the barrier of its cluster, and not waited since; its phase then.
  bool at_cluster = false;
  uint64_t cluster_phase = 0;
};

constexpr int lanes_per_warp = 32;
constexpr int max_threads = 1024;
constexpr unsigned max_cluster = 8;  // blocks, which every GPU of compute capability 9.0 and newer allows
constexpr size_t max_shared_bytes = 48 * 1024;
// The shared memory that a launch may give a block: on every GPU of compute capability 8.0 and newer, and on
// those of 9.0.
constexpr size_t max_launch_bytes = 99 * 1024, max_launch_bytes_90 = 227 * 1024;
// Where it begins: the system's own, and a block's other shared objects, come first.
constexpr uint32_t shared_base = 2048;

}  // namespace cconvnet::emulator
