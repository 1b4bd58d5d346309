// The machine of the emulator: runs the blocks of a launch one after the other, and the threads of a block in
// turns. The blocks of a cluster run together.
//
// Threads run one at a time. A thread runs until it waits or returns; then the next in the schedule's order
// continues at once, with no scheduler in between. A round gives every thread that can run one turn. Threads
// released meanwhile form the next round. When no thread can run and some still wait, they wait for threads
// that will never arrive, and that is reported.
//
// In reverse order a round is of one warp, the last that can run. So a warp runs as far as it can before the
// warps below it start. In the other orders all warps advance together, from one warp operation to the next.
//
// Beside the threads there is other work, that of the copy engine. In forward order it is done as soon as it
// is started, in reverse order as late as it can be: when no thread can run, the newest first. In random order
// it is done at any time, in any order.
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <exception>
#include <functional>
#include <mutex>
#include <string>
#include <utility>
#include <vector>

#include "../api.h"
#include "counting.h"
#include "deadlock.h"
#include "errors.h"
#include "fiber.h"
#include "limits.h"
#include "random.h"
#include "thread.h"
#include "vector_types.h"

namespace cconvnet::emulator {

// A block that runs.
struct Block {
  uint3 index;
  uint64_t serial;
  size_t shared_bytes = 0;              // of its own objects
  const char* launch_shared = nullptr;  // the memory that the launch gave it, once it has used it
  int at_barrier = 0, returned = 0;     // threads
};

class Machine {
 public:
  // The values of threadIdx, blockIdx, blockDim and gridDim for the running thread.
  uint3 thread_index{}, block_index{};
  dim3 block_dim, grid_dim;

  void set_schedule(Schedule schedule, uint64_t seed) {
    std::lock_guard<std::recursive_mutex> lock(mutex_);
    schedule_ = schedule;
    random_ = Random(seed);
  }

  // Runs body(argument), which calls `kernel`, once for every thread of the grid. The launch gives each block
  // `launch_bytes` of shared memory, of which it may give `most_bytes`.
  void run(const Site& site, const LaunchOptions& options, dim3 grid, dim3 block, size_t launch_bytes,
           size_t most_bytes, const void* kernel, void (*body)(void*), void* argument) {
    std::lock_guard<std::recursive_mutex> lock(mutex_);
    if (running_)
      throw KernelError(where() + ": launches " + kernel_name(site) + ", which only the host may do");
    kernel_ = kernel_name(site);
    check_limits(site, kernel_, options, grid, block, launch_bytes, most_bytes);
    programmatic_ = options.programmatic;
    grid_dim = grid;
    block_dim = block;
    launch_bytes_ = launch_bytes;
    body_ = body;
    argument_ = argument;
    thread_count_ = static_cast<int>(block.x * block.y * block.z);
    warp_count_ = (thread_count_ + lanes_per_warp - 1) / lanes_per_warp;
    cluster_ = static_cast<int>(options.cluster);
    for (int b = 0; b < cluster_; ++b) {
      for (int i = 0; i < thread_count_; ++i) {
        const unsigned u = static_cast<unsigned>(i);
        Thread& thread = threads_of(b)[i];
        thread.index = {u % block.x, u / block.x % block.y, u / block.x / block.y};
        thread.block = b;
      }
    }

    struct Running {
      bool& flag;
      explicit Running(bool& flag) : flag(flag) { flag = true; }
      ~Running() { flag = false; }
    } running(running_);
    counting::begin_launch(kernel_, site.file, site.line, kernel, grid, block, launch_bytes);
    run_clusters(uint64_t{grid.x} * grid.y * grid.z / options.cluster);
    counting::end_launch();
  }

  // ---- for a running thread -----------------------------------------------------------------------------

  // Waits for all threads of the block; returns how many of them passed a true predicate.
  int block_barrier(const Site& site, bool predicate) {
    const counting::Paused paused;
    int operand = predicate;
    wait_at(site, 0, &operand);
    if (++block_->at_barrier == thread_count_ && all_at_barrier(site)) {
      const int own = current_->block;
      Thread* const threads = threads_of(own);
      int count = 0;
      for (int i = 0; i < thread_count_; ++i) count += *static_cast<int*>(threads[i].operand);
      for (int i = 0; i < thread_count_; ++i) *static_cast<int*>(threads[i].operand) = count;
      for (int w = 0; w < warp_count_; ++w) ready_[own * warp_count_ + w] = lanes_of(w);
      block_->at_barrier = 0;
      cut_ = counting::passed_barrier(site.operation, site.file, site.line, own);
    }
    give_way();
    return operand;
  }

  // Waits for the lanes in `mask`. The last to arrive calls resolve(operands, mask), which computes the
  // operation for the whole warp. The operands are on the lanes' own stacks.
  template <class Operand, class Resolve>
  void warp_operation(const Site& site, unsigned mask, Operand& operand, Resolve resolve) {
    const counting::Paused paused;
    const int warp = rank(*current_) / lanes_per_warp;
    const unsigned bit = 1u << lane();
    if (!(mask & bit)) fail<KernelError>(site, "called by a lane that is not in its mask " + hex(mask));
    if (mask & ~lanes_of(thread_rank() / lanes_per_warp)) {
      fail<DivergenceError>(site, "the mask " + hex(mask) + " names lanes which the block of " +
                                      std::to_string(thread_count_) + " threads does not have");
    }
    wait_at(site, mask, &operand);
    waiting_[warp] |= bit;
    if ((waiting_[warp] & mask) == mask) {
      Operand* operands[lanes_per_warp] = {};
      bool together = true;
      for (unsigned rest = mask; rest; rest &= rest - 1) {
        const int i = __builtin_ctz(rest);
        const Thread& thread = threads_[warp * lanes_per_warp + i];
        together = together && thread.mask == mask && thread.site == site;
        operands[i] = static_cast<Operand*>(thread.operand);
      }
      if (together) {
        resolve(operands, mask);
        counting::warp_operation(site.operation, site.file, site.line);
        waiting_[warp] &= ~mask;
        ready_[warp] |= mask;
      }
    }
    give_way();
  }

  // Waits until the condition is met, perhaps not at all.
  void wait_until(const Site& site, Condition& condition) {
    const counting::Paused paused;
    if (condition.is_met()) return;
    wait_at(site, 0, nullptr);
    current_->condition = &condition;
    conditional_.push_back(current_);
    give_way();
  }

  // Starts work beside the threads.
  void start_beside(std::function<void()> work) {
    if (schedule_ == Schedule::forward) {
      work();
    } else {
      beside_.push_back(std::move(work));
    }
  }

  // Whether the kernel may begin before the one ahead of it has ended.
  bool overlaps() const { return programmatic_; }
  Thread& current() { return *current_; }
  int thread_rank() const { return rank(*current_) - current_->block * warp_count_ * lanes_per_warp; }
  int lane() const { return rank(*current_) % lanes_per_warp; }
  int thread_count() const { return thread_count_; }
  Schedule schedule() const { return schedule_; }
  uint64_t random_below(uint64_t bound) { return random_.below(bound); }

  // Changes with every block; that of the first of a cluster with every cluster.
  uint64_t block_serial() const { return block_->serial; }
  uint64_t cluster_serial() const { return blocks_[0].serial; }
  // The number of the block in its cluster, which has so many threads.
  int cluster_rank() const { return static_cast<int>(block_ - blocks_); }
  int cluster_size() const { return cluster_; }
  int cluster_threads() const { return cluster_ * thread_count_; }

  // Counts a shared object that the block uses for the first time.
  void count_shared(size_t bytes) {
    if (!running_) throw KernelError("shared_memory() was called outside a kernel");
    block_->shared_bytes += bytes;
    if (block_->shared_bytes > max_shared_bytes) {
      throw KernelError(where() + ": uses " + std::to_string(block_->shared_bytes) +
                        " bytes of shared memory, more than " + std::to_string(max_shared_bytes));
    }
  }

  // The same for the object in the memory that the launch gave.
  void count_launch_shared(const void* memory, size_t bytes) {
    block_->launch_shared = static_cast<const char*>(memory);
    if (!running_) throw KernelError("launch_shared_memory() was called outside a kernel");
    if (bytes > launch_bytes_) {
      throw KernelError(where() + ": uses " + std::to_string(bytes) +
                        " bytes of the launch's shared memory, which has " + std::to_string(launch_bytes_));
    }
  }

  // The address of `bytes` bytes in the shared memory that the launch gave, as a GPU counts it.
  uint32_t shared_address(const Site& site, const void* memory, size_t bytes) const {
    const size_t offset = static_cast<size_t>(static_cast<const char*>(memory) - block_->launch_shared);
    if (offset > launch_bytes_ || bytes > launch_bytes_ - offset) {
      fail<KernelError>(site, "an address is not in the launch's shared memory");
    }
    return shared_base + static_cast<uint32_t>(offset);
  }
  char* at_shared_address(const Site& site, uint32_t address) const {
    if (address - shared_base >= launch_bytes_) {
      fail<KernelError>(site, "the shared address " + std::to_string(address) + " is beyond the launch's " +
                                  std::to_string(launch_bytes_) + " bytes");
    }
    return const_cast<char*>(block_->launch_shared) + (address - shared_base);
  }
  const Block& block(unsigned number) const { return blocks_[number]; }
  bool has_ended(unsigned number) const { return blocks_[number].returned == thread_count_; }

  // Throws an error that names kernel, block, the running thread, operation and line.
  template <class Error>
  [[noreturn]] __attribute__((noinline, cold)) void fail(const Site& site, const std::string& what) const {
    throw Error(where() + ", thread " + name(*current_) + ": " + name_with_line(site) + ": " + what);
  }

 private:
  struct Cancelled {};  // thrown out of the waiting threads of a block that failed, to unwind their stacks

  // ---- blocks -------------------------------------------------------------------------------------------

  void run_clusters(uint64_t count) {
    uint64_t block = 0, step = 1;
    if (schedule_ == Schedule::reverse) {
      block = step = count - 1;
    } else if (schedule_ == Schedule::random) {
      block = random_.below(count);
      step = random_.step(count);
    }
    const uint64_t turns = counting::blocks_to_run(count);
    for (uint64_t i = 0; i < turns; ++i) {
      // A sample is spread evenly, from the first block to the last.
      if (turns < count) block = turns == 1 ? 0 : i * (count - 1) / (turns - 1);
      run_cluster(block);
      block = (block + step) % count;
    }
  }

  void run_cluster(uint64_t number) {
    const uint64_t first = number * cluster_;
    for (int b = 0; b < cluster_; ++b) {
      const uint64_t block = first + b;
      blocks_[b] = {
          {static_cast<unsigned>(block % grid_dim.x), static_cast<unsigned>(block / grid_dim.x % grid_dim.y),
           static_cast<unsigned>(block / grid_dim.x / grid_dim.y)},
          ++serials_};
    }
    block_ = blocks_;
    block_index = block_->index;
    counting::begin_block(first, warp_count_ * lanes_per_warp, cluster_);
    run_threads();
    counting::end_block();
  }

  void run_threads() {
    returned_ = 0;
    for (int w = 0; w < warps(); ++w) {
      ready_[w] = lanes_of(w % warp_count_);
      waiting_[w] = 0;
    }
    round_size_ = round_next_ = 0;
    conditional_.clear();
    beside_.clear();
    error_ = nullptr;
    cancelling_ = cut_ = false;

    Thread* first = next();
    resume(*first);
    Fiber::switch_to(launcher_, *first->fiber);

    if (!error_ && returned_ == cluster_threads()) return;
    if (!error_ && !cut_) error_ = std::make_exception_ptr(DivergenceError(describe_deadlock()));
    cancelling_ = true;
    for (int i = 0; i < warps() * lanes_per_warp; ++i) {
      if (!threads_[i].fiber) continue;
      current_ = &threads_[i];
      Fiber::switch_to(launcher_, *threads_[i].fiber);
    }
    if (error_) std::rethrow_exception(std::exchange(error_, nullptr));
  }

  // ---- threads ------------------------------------------------------------------------------------------

  // The thread whose turn it is, or null when none can run.
  Thread* next() {
    if (round_next_ == round_size_) start_round();
    return round_next_ < round_size_ ? &threads_[round_[round_next_++]] : nullptr;
  }

  // Releases the threads whose conditions are met. Meanwhile, or if no thread can run, work beside the threads
  // proceeds.
  void look_beside() {
    const auto work = [this](size_t i) {
      const std::function<void()> started = std::move(beside_[i]);
      beside_.erase(beside_.begin() + static_cast<std::ptrdiff_t>(i));
      started();
    };
    if (schedule_ == Schedule::random) {
      while (!beside_.empty() && random_.below(2) == 0) work(random_.below(beside_.size()));
    }
    for (;;) {
      const auto is_released = [this](Thread* thread) {
        if (!thread->condition->is_met()) return false;
        ready_[rank(*thread) / lanes_per_warp] |= 1u << rank(*thread) % lanes_per_warp;
        return true;
      };
      conditional_.erase(std::remove_if(conditional_.begin(), conditional_.end(), is_released),
                         conditional_.end());
      const bool can_run = std::any_of(ready_, ready_ + warps(), [](unsigned lanes) { return lanes != 0; });
      if (can_run || beside_.empty()) return;
      work(schedule_ == Schedule::random ? random_.below(beside_.size()) : beside_.size() - 1);
    }
  }

  void start_round() {
    round_next_ = round_size_ = 0;
    if (!conditional_.empty() || !beside_.empty()) look_beside();
    int first = 0;
    if (schedule_ == Schedule::reverse) {
      first = warps() - 1;
      while (first > 0 && !ready_[first]) --first;
    }
    for (int w = first; w < warps(); ++w) {
      for (unsigned rest = ready_[w]; rest; rest &= rest - 1) {
        round_[round_size_++] = static_cast<uint16_t>(w * lanes_per_warp + __builtin_ctz(rest));
      }
      ready_[w] = 0;
    }
    if (schedule_ == Schedule::reverse) {
      std::reverse(round_, round_ + round_size_);
    } else if (schedule_ == Schedule::random) {
      for (int i = round_size_; i > 1; --i) std::swap(round_[i - 1], round_[random_.below(i)]);
    }
  }

  // Makes `thread` the running one, on a fresh stack if it has not begun.
  void resume(Thread& thread) {
    if (!thread.fiber) {
      thread.fiber = pool_.take();
      thread.fiber->start(&Machine::fiber_main);
    }
    current_ = &thread;
    thread_index = thread.index;
    if (cluster_ > 1) {
      block_ = &blocks_[thread.block];
      block_index = block_->index;
    }
    counting::running(rank(thread), thread.fiber->stack(), Fiber::stack_bytes);
    counting::set_early(programmatic_ && !thread.waited ? &thread.early : nullptr);
  }

  void wait_at(const Site& site, unsigned mask, void* operand) {
    current_->site = site;
    current_->mask = mask;
    current_->operand = operand;
    current_->condition = nullptr;
  }

  // Lets the other threads run until this one is released.
  __attribute__((noinline)) void give_way() {
    Fiber* self = current_->fiber;
    Fiber* other = &launcher_;
    if (Thread* thread = cut_ ? nullptr : next()) {
      resume(*thread);
      other = thread->fiber;
    }
    if (other != self) Fiber::switch_to(*self, *other);
    if (cancelling_) throw Cancelled{};
  }

  // The function of every fiber: runs a thread, and then others that have not begun, on the same stack.
  // Threads that never wait therefore need no switch at all.
  static void fiber_main();

  void work() {
    Fiber* const self = current_->fiber;
    for (;;) {
      Thread& thread = *current_;
      try {
        const counting::Counted counted;
        thread.waited = thread.early = thread.at_cluster = false;
        body_(argument_);
        if (programmatic_ && !thread.waited) {
          throw KernelError(
              where() + ", thread " + name(thread) +
              ": returned without having waited for the kernel ahead, with which the launch overlaps");
        }
        if (!thread.stores.empty()) {
          throw KernelError(where() + ", thread " + name(thread) +
                            ": returned before its stores had read shared memory");
        }
      } catch (const Cancelled&) {
      } catch (...) {
        error_ = std::current_exception();
      }
      thread.fiber = nullptr;
      thread.copies.clear();
      thread.stores.clear();
      ++returned_;
      ++blocks_[thread.block].returned;
      Thread* follower = nullptr;
      try {
        if (!error_ && !cancelling_) follower = next();
      } catch (...) {
        error_ = std::current_exception();
      }
      if (follower && !follower->fiber) {
        follower->fiber = self;
        resume(*follower);
        continue;
      }
      pool_.give(self);
      if (follower) resume(*follower);
      Fiber::switch_to(*self, follower ? *follower->fiber : launcher_, /*finished=*/true);
    }
  }

  bool all_at_barrier(const Site& site) const {
    const Thread* const threads = threads_of(current_->block);
    return std::all_of(threads, threads + thread_count_,
                       [&](const Thread& thread) { return thread.site == site; });
  }

  // In the cluster, whose blocks have whole warps each.
  int rank(const Thread& thread) const { return static_cast<int>(&thread - threads_); }
  int warps() const { return cluster_ * warp_count_; }
  Thread* threads_of(int block) { return threads_ + block * warp_count_ * lanes_per_warp; }
  const Thread* threads_of(int block) const { return threads_ + block * warp_count_ * lanes_per_warp; }

  // Of a block's warp.
  unsigned lanes_of(int warp) const {
    const int lanes = std::min(lanes_per_warp, thread_count_ - warp * lanes_per_warp);
    return lanes == lanes_per_warp ? ~0u : (1u << lanes) - 1;
  }

  // ---- messages -----------------------------------------------------------------------------------------

  std::string where() const {
    return kernel_ + ", block " + triple(block_index.x, block_index.y, block_index.z);
  }

  std::string describe_deadlock() const {
    std::string text = where() + (cluster_ > 1 ? ", and the others of its cluster" : "") +
                       ": threads wait for others that never arrive";
    for (int b = 0; b < cluster_; ++b) {
      text += "; " + (cluster_ > 1 ? "in block " + std::to_string(b) + " of it " : "") +
              describe_waiting(threads_of(b), thread_count_);
    }
    return text;
  }

  std::recursive_mutex mutex_;
  Schedule schedule_ = Schedule::forward;
  Random random_{0};

  // The launch.
  bool running_ = false, programmatic_ = false;
  std::string kernel_;
  void (*body_)(void*) = nullptr;
  void* argument_ = nullptr;
  int thread_count_ = 0, warp_count_ = 0;  // of a block
  size_t launch_bytes_ = 0;
  int cluster_ = 1;  // blocks

  // The blocks of the cluster that runs.
  uint64_t serials_ = 0;
  Block blocks_[max_cluster];
  Block* block_ = blocks_;  // of the running thread
  int returned_ = 0;
  std::exception_ptr error_;
  bool cancelling_ = false;
  bool cut_ = false;  // the block ends here, at the limit of barriers that a count has
  static constexpr int most_threads = max_threads * max_cluster;
  unsigned ready_[most_threads / lanes_per_warp] = {};    // per warp: lanes that may run in the next round
  unsigned waiting_[most_threads / lanes_per_warp] = {};  // per warp: lanes that wait at a warp operation
  std::vector<Thread*> conditional_;                      // threads that wait until a condition is met
  std::vector<std::function<void()>> beside_;             // work beside the threads that is not done
  uint16_t round_[most_threads];
  int round_size_ = 0, round_next_ = 0;
  Thread threads_[most_threads];  // of block after block
  Thread* current_ = nullptr;

  Fiber launcher_;  // the stack run() was called on
  FiberPool pool_;
};

inline Machine machine;

// Of the chip that the emulator stands for. Few, so that small problems have several tiles for each.
constexpr int usual_multiprocessors = 3;
inline int multiprocessors = usual_multiprocessors;

inline void Machine::fiber_main() {
  Fiber::arrived(nullptr);
  machine.work();
}

}  // namespace cconvnet::emulator
