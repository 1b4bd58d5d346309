// The parts of oneDNN that the convolutions and the fully connected layers share: the engine, one scratch
// buffer, a cache of primitives, and the translation of errors.
//
// A primitive is compiled for one slice of a problem, which takes milliseconds, so it is cached. It runs in
// one thread, and the threads share the slices. So the order of its sums does not depend on the number of
// threads, and it never waits for threads that OpenMP does not grant. One call runs at a time: each uses all
// cores anyway. All calls share the scratch buffer, whose size is the largest that any of them needed, not
// their sum.
#pragma once

#include <pthread.h>

#include <array>
#include <atomic>
#include <dnnl.hpp>
#include <exception>
#include <map>
#include <memory>
#include <mutex>
#include <stdexcept>
#include <string>
#include <unordered_map>
#include <utility>

#ifdef __linux__
#include <signal.h>
#include <sys/auxv.h>
#include <sys/mman.h>
#endif

#include "parallel.h"
#include "problem.h"
#include "core/repr.h"
#include "threads.h"

namespace cconvnet::onednn {

inline const dnnl::engine& engine() {
  static const dnnl::engine engine(dnnl::engine::kind::cpu, 0);
  return engine;
}

inline std::mutex& mutex() {
  static std::mutex mutex;
  // A fork while another thread computes would otherwise leave it locked in the child.
  [[maybe_unused]] static const int registered = pthread_atfork(
      [] { onednn::mutex().lock(); }, [] { onednn::mutex().unlock(); }, [] { onednn::mutex().unlock(); });
  return mutex;
}

// At least `bytes` of memory that hold nothing between calls. Guarded by mutex().
inline void* scratch(size_t bytes) {
  static void* memory = nullptr;
  static size_t size = 0;
  if (size < bytes) {
    std::free(memory);
    size = 0;
    constexpr size_t kLargePage = size_t{2} << 20;
    const size_t rounded = (bytes + kLargePage - 1) / kLargePage * kLargePage;
    memory = std::aligned_alloc(kLargePage, rounded);
    if (!memory) throw std::bad_alloc();
    size = rounded;
#ifdef __linux__
    // NumPy does the same for arrays. On Zen 5 wgrad of AlexNet's conv3 to conv5 became 5% faster
    // (2026-11-21).
    madvise(memory, size, MADV_HUGEPAGE);
#endif
  }
  return memory;
}

#ifdef __linux__
// A stack for the signal handlers of the thread it is made in, unless the thread has one. oneDNN before
// 3.11.2 points the stack pointer into the heap within its compiled matrix products (its issue 4845), and the
// kernel would overwrite memory there with a handler's frame. Python's handlers request this stack.
class SignalStack {
 public:
  SignalStack() {
    stack_t present;
    if (sigaltstack(nullptr, &present) != 0 || !(present.ss_flags & SS_DISABLE)) return;
    // The kernel's frame, which grows with the vector registers, and what a handler needs.
    const size_t size = getauxval(AT_MINSIGSTKSZ) + (size_t{64} << 10);
    memory_ = std::make_unique<char[]>(size);
    const stack_t own{memory_.get(), 0, size};
    if (sigaltstack(&own, nullptr) != 0) memory_.reset();
  }
  ~SignalStack() {
    stack_t present;
    if (sigaltstack(nullptr, &present) != 0 || present.ss_sp != memory_.get()) return;
    present.ss_flags = SS_DISABLE;
    sigaltstack(&present, nullptr);
  }
  SignalStack(const SignalStack&) = delete;
  SignalStack& operator=(const SignalStack&) = delete;

 private:
  std::unique_ptr<char[]> memory_;
};
#else
struct SignalStack {};
#endif

enum Pass { kFprop, kDgrad, kWgrad };

// The sizes of a problem, the pass, and the number of threads that reorders are made for.
using Key = std::array<int, 20>;

inline Key key_of(const ConvProblem& problem, Pass pass, bool bias) {
  return {problem.n,
          problem.h,
          problem.w,
          problem.c,
          problem.k,
          problem.r,
          problem.s,
          problem.p,
          problem.q,
          problem.stride_h,
          problem.stride_w,
          problem.pad_h,
          problem.pad_w,
          problem.groups,
          problem.precision == Precision::bf16,
          problem.dilation_h,
          problem.dilation_w,
          pass,
          bias,
          granted_threads()};
}

// Primitives by key, made at first use. Guarded by mutex(). A program has some tens of problems. For one that
// keeps making new ones, the cache is emptied before compiled code fills the memory.
template <class Primitive>
class Cache {
 public:
  template <class Make>
  Primitive& get(const Key& key, const Make& make) {
    auto found = primitives_.find(key);
    if (found == primitives_.end()) {
      if (primitives_.size() >= kMaxPrimitives) primitives_.clear();
      found = primitives_.emplace(key, make()).first;
    }
    return *found->second;
  }

 private:
  static constexpr size_t kMaxPrimitives = 512;
  std::map<Key, std::unique_ptr<Primitive>> primitives_;
};

// Runs one pass of a problem by the primitive made for it, a Primitive(problem, pass, bias). The pass writes
// one of x, w and y, whose const does not apply. If oneDNN fails, the error names the operation and the
// problem. `more` is what else the primitive's run takes.
template <class Primitive, class... More>
void run(const char* family, const ConvProblem& problem, Pass pass, const void* x, const void* w,
         const float* bias, const void* y, const More&... more) {
  static Cache<Primitive> cache;
  const std::lock_guard<std::mutex> lock(mutex());
  try {
    const bool with_bias = bias != nullptr;
    cache
        .get(key_of(problem, pass, with_bias),
             [&] { return std::make_unique<Primitive>(problem, pass, with_bias); })
        .run(x, w, bias, y, more...);
  } catch (const dnnl::error& error) {
    const char* const names[] = {"_fprop", "_dgrad", "_wgrad"};
    throw std::runtime_error(std::string("oneDNN failed in ") + family + names[pass] + " of " +
                             repr(problem) + ": " + error.message + " (status " +
                             std::to_string(static_cast<int>(error.status)) + ")");
  }
}

// The type of activations and of the weights that a product reads.
inline dnnl::memory::data_type type_of(const ConvProblem& problem) {
  return problem.precision == Precision::bf16 ? dnnl::memory::data_type::bf16 : dnnl::memory::data_type::f32;
}

// The gradient of weights is in floats for weights of any type.
inline dnnl::memory::data_type weights_type_of(const ConvProblem& problem, Pass pass) {
  return pass == kWgrad ? dnnl::memory::data_type::f32 : type_of(problem);
}

inline size_t whole_lines(size_t bytes) {
  constexpr size_t kLine = 64;
  return (bytes + kLine - 1) / kLine * kLine;
}

inline dnnl::memory memory_at(const dnnl::memory::desc& desc, const void* data) {
  return dnnl::memory(desc, engine(), const_cast<void*>(data));
}

// Copies an array from one layout to another. It adds nothing up, so it has threads of its own.
class Reorder {
 public:
  Reorder() = default;
  Reorder(const dnnl::memory::desc& from, const dnnl::memory::desc& to)
      : from_(memory_at(from, nullptr)), to_(memory_at(to, nullptr)) {
    const Team all(granted_threads());
    primitive_ = dnnl::reorder(from_, to_);
  }

  void run(const void* from, const void* to) {
    const Team all(granted_threads());
    dnnl::stream stream(engine());
    from_.set_data_handle(const_cast<void*>(from));
    to_.set_data_handle(const_cast<void*>(to));
    primitive_.execute(stream, from_, to_);
    stream.wait();
  }

 private:
  dnnl::reorder primitive_;
  dnnl::memory from_, to_;
};

// A primitive of one thread, and the descriptions of its arguments.
struct SlicePrimitive {
  dnnl::primitive primitive;
  std::unordered_map<int, dnnl::memory::desc> arguments;
  dnnl::memory::desc scratchpad;

  // `data` by the same keys as `arguments`. Several threads may run it at a time, with scratchpads of their
  // own.
  void run(std::initializer_list<std::pair<int, const void*>> data, void* own_scratchpad) const {
    [[maybe_unused]] thread_local const SignalStack signal_stack;
    dnnl::stream stream(engine());
    std::unordered_map<int, dnnl::memory> memories = {
        {DNNL_ARG_SCRATCHPAD, memory_at(scratchpad, own_scratchpad)}};
    for (const auto& [key, address] : data) {
      if (address) memories.emplace(key, memory_at(arguments.at(key), address));
    }
    primitive.execute(stream, memories);
    stream.wait();
  }
};

// Runs work(slice, scratchpad) by parallel_slices, with a scratchpad for each thread; rethrows the first
// exception, which must not leave a thread.
template <class Work>
void run_slices(int slices, size_t scratchpad_bytes, char* scratchpads, const Work& work) {
  std::atomic<bool> failed{false};
  std::exception_ptr failure;
  parallel_slices(slices, [&](int slice, int thread) {
    if (failed) return;
    try {
      work(slice, scratchpads + thread * whole_lines(scratchpad_bytes));
    } catch (...) {
      if (!failed.exchange(true)) failure = std::current_exception();
    }
  });
  if (failure) std::rethrow_exception(failure);
}

}  // namespace cconvnet::onednn
