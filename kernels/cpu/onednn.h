// What the convolutions and the fully connected layers share of oneDNN: the engine, one scratch buffer, a
// cache of primitives, and the translation of its errors.
//
// A primitive is compiled for one problem, which takes milliseconds, so it is kept with the memory objects of
// its arguments; a call only fills in addresses. One call runs at a time: each uses all cores anyway, and all
// of them share the scratch buffer, which is the largest that any of them needed and not their sum.
#pragma once

#include <omp.h>

#include <array>
#include <dnnl.hpp>
#include <map>
#include <memory>
#include <mutex>
#include <stdexcept>
#include <string>
#include <utility>

#ifdef __linux__
#include <signal.h>
#include <sys/auxv.h>
#include <sys/mman.h>
#endif

#include "problem.h"
#include "repr.h"

namespace cconvnet::onednn {

inline const dnnl::engine& engine() {
  static const dnnl::engine engine(dnnl::engine::kind::cpu, 0);
  return engine;
}

inline std::mutex& mutex() {
  static std::mutex mutex;
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
    // NumPy asks the same for arrays. On Zen 5 wgrad of AlexNet's conv3 to conv5 became 5% faster
    // (2026-11-21).
    madvise(memory, size, MADV_HUGEPAGE);
#endif
  }
  return memory;
}

#ifdef __linux__
// A stack for the signal handlers of the thread it is made in, unless the thread has one. oneDNN before
// 3.11.2 points the stack pointer into the heap within its compiled matrix products (its issue 4845), and the
// kernel would write a handler's frame over whatever lies there. Python's handlers ask for this stack.
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

// The sizes of a problem, what is asked of it, and the number of threads the primitive is made for.
using Key = std::array<int, 20>;

inline Key key_of(const ConvProblem& o, Pass pass, bool bias) {
  return {o.n,          o.h,          o.w,     o.c,      o.k,
          o.r,          o.s,          o.p,     o.q,      o.stride_h,
          o.stride_w,   o.pad_h,      o.pad_w, o.groups, o.precision == Precision::bf16,
          o.dilation_h, o.dilation_w, pass,    bias,     omp_get_max_threads()};
}

// Primitives by key, made at first use. Guarded by mutex(). A program has some tens of problems; one that
// makes ever new ones starts over rather than fill the memory with compiled code.
template <class Primitive>
class Cache {
 public:
  template <class Make>
  Primitive& get(const Key& key, const Make& make) {
    auto found = primitives_.find(key);
    if (found == primitives_.end()) {
      if (primitives_.size() >= kMost) primitives_.clear();
      found = primitives_.emplace(key, make()).first;
    }
    return *found->second;
  }

 private:
  static constexpr size_t kMost = 512;
  std::map<Key, std::unique_ptr<Primitive>> primitives_;
};

// One pass of a problem by the primitive that was made for it, a Primitive(problem, pass, bias); whichever of
// x, w and y the pass writes is not const to it. If oneDNN fails, the error says in whose behalf.
template <class Primitive>
void run(const char* family, const ConvProblem& problem, Pass pass, const void* x, const void* w,
         const float* bias, const void* y) {
  static Cache<Primitive> cache;
  [[maybe_unused]] thread_local const SignalStack signal_stack;
  const std::lock_guard<std::mutex> lock(mutex());
  try {
    const bool with_bias = bias != nullptr;
    cache
        .get(key_of(problem, pass, with_bias),
             [&] { return std::make_unique<Primitive>(problem, pass, with_bias); })
        .run(x, w, bias, y);
  } catch (const dnnl::error& error) {
    const char* const names[] = {"_fprop", "_dgrad", "_wgrad"};
    throw std::runtime_error(std::string("oneDNN failed in ") + family + names[pass] + " of " +
                             repr(problem) + ": " + error.message + " (status " +
                             std::to_string(static_cast<int>(error.status)) + ")");
  }
}

// What activations and the weights that a product reads are kept in.
inline dnnl::memory::data_type type_of(const ConvProblem& o) {
  return o.precision == Precision::bf16 ? dnnl::memory::data_type::bf16 : dnnl::memory::data_type::f32;
}

// The gradient of weights is of floats whatever the weights are.
inline dnnl::memory::data_type weights_type_of(const ConvProblem& o, Pass pass) {
  return pass == kWgrad ? dnnl::memory::data_type::f32 : type_of(o);
}

inline dnnl::memory no_memory_yet(const dnnl::memory::desc& desc) {
  return dnnl::memory(desc, engine(), nullptr);
}

inline void point(dnnl::memory& memory, const void* data) {
  memory.set_data_handle(const_cast<void*>(data));
}

}  // namespace cconvnet::onednn
