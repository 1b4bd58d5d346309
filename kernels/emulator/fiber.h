// Fibers: functions with a stack of their own that can pause in the middle and resume later.
//
// A CUDA thread that waits at a barrier must pause inside the kernel and let the other threads of its block
// run. A fiber does that without the operating system. Switching stores the registers that a callee must
// preserve on the running stack, and continues on another stack whose registers were stored the same way.
//
// There are two implementations of the switch: a few lines of assembly for x86-64, and ucontext (POSIX) for
// all other processors or where CCONVNET_EMULATOR_UCONTEXT is defined. The second makes a system call at
// every switch and is much slower.
#pragma once

#include <sys/mman.h>
#include <unistd.h>

#include <cstddef>
#include <cstdint>
#include <memory>
#include <new>
#include <vector>

#if !defined(__x86_64__) && !defined(CCONVNET_EMULATOR_UCONTEXT)
#define CCONVNET_EMULATOR_UCONTEXT
#endif
#ifdef CCONVNET_EMULATOR_UCONTEXT
#include <ucontext.h>
#endif

#if defined(__SANITIZE_ADDRESS__)
#define CCONVNET_EMULATOR_ASAN
#elif defined(__has_feature)
#if __has_feature(address_sanitizer)
#define CCONVNET_EMULATOR_ASAN
#endif
#endif
#ifdef CCONVNET_EMULATOR_ASAN
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#endif

namespace cconvnet::emulator {

#ifndef CCONVNET_EMULATOR_UCONTEXT
// Stores the callee-saved registers and both floating-point control words (System V ABI for x86-64, section
// 3.2.1) on the running stack, saves the stack pointer in *from, and resumes `to`. GCC must not look inside
// (noipa): it would conclude that no other registers change here, but other fibers change them.
#ifdef __clang__
__attribute__((naked, noinline))
#else
__attribute__((naked, noipa))
#endif
inline void switch_stack(void** /*from*/, void* /*to*/) {
  asm(R"(
    pushq %rbp
    pushq %rbx
    pushq %r12
    pushq %r13
    pushq %r14
    pushq %r15
    subq $8, %rsp
    stmxcsr (%rsp)
    fnstcw 4(%rsp)
    movq %rsp, (%rdi)
    movq %rsi, %rsp
    ldmxcsr (%rsp)
    fldcw 4(%rsp)
    addq $8, %rsp
    popq %r15
    popq %r14
    popq %r13
    popq %r12
    popq %rbx
    popq %rbp
    ret
  )");
}
#endif

// One fiber and its stack. A stack ends in an inaccessible page, so that an overflow crashes instead of
// corrupting its neighbour.
class Fiber {
 public:
#ifdef CCONVNET_EMULATOR_ASAN
  static constexpr size_t stack_bytes =
      256 * 1024;  // redzones make frames larger, and reports are printed here
#else
  static constexpr size_t stack_bytes = 64 * 1024;
#endif

  // The stack of the operating system's thread; its first switch away fills it in.
  Fiber() = default;

  // A new stack. `number` staggers the start of its use: stacks that all begin at the same offset of a page
  // compete for the same few sets of the cache, and a switch takes half as long again.
  explicit Fiber(size_t number) {
    const size_t page = static_cast<size_t>(sysconf(_SC_PAGESIZE));
    mapped_bytes_ = stack_bytes + page;
    mapping_ = mmap(nullptr, mapped_bytes_, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (mapping_ == MAP_FAILED) throw std::bad_alloc();
    if (mprotect(mapping_, page, PROT_NONE) != 0) {
      munmap(mapping_, mapped_bytes_);
      throw std::bad_alloc();
    }
    bottom_ = static_cast<char*>(mapping_) + page;
    size_ = stack_bytes - number * 192 % 4096;
    own_ = true;
  }

  ~Fiber() {
    if (own_) munmap(mapping_, mapped_bytes_);
  }

  const char* stack() const { return bottom_; }

  Fiber(const Fiber&) = delete;
  Fiber& operator=(const Fiber&) = delete;

  // The next switch to this fiber calls `entry`, which must never return.
  void start(void (*entry)()) {
#ifdef CCONVNET_EMULATOR_ASAN
    // The stack's last use ended in frames that never returned, so their redzones are still poisoned.
    constexpr size_t unreturned_bytes = 16 * 1024;
    __asan_unpoison_memory_region(bottom_ + size_ - unreturned_bytes, unreturned_bytes);
#endif
#ifdef CCONVNET_EMULATOR_UCONTEXT
    getcontext(&context_);
    context_.uc_stack.ss_sp = bottom_;
    context_.uc_stack.ss_size = size_;
    context_.uc_link = nullptr;
    makecontext(&context_, entry, 0);
#else
    // The state that switch_stack would have stored: control words, six registers, the return address. The
    // return address of 0 above them ends backtraces, and aligns the stack as the ABI requires at a call.
    void** top = reinterpret_cast<void**>(bottom_ + size_);
    top[-1] = nullptr;
    top[-2] = reinterpret_cast<void*>(entry);
    for (int i = 3; i <= 8; ++i) top[-i] = nullptr;
    uint32_t* control = reinterpret_cast<uint32_t*>(&top[-9]);
    asm("stmxcsr %0" : "=m"(control[0]));
    control[1] = 0;
    asm("fnstcw %0" : "=m"(*reinterpret_cast<uint16_t*>(&control[1])));
    stack_pointer_ = &top[-9];
#endif
  }

  // Pauses fiber `from` here and resumes `to`; returns when some fiber switches back to `from`. A `from` that
  // is finished is never switched back to, only started anew.
  static void switch_to(Fiber& from, Fiber& to, bool finished = false) {
#ifdef CCONVNET_EMULATOR_ASAN
    // AddressSanitizer must be told of every change of stack, or it reports the new one as wild memory.
    previous_ = &from;
    __sanitizer_start_switch_fiber(finished ? nullptr : &from.fake_stack_, to.bottom_, to.size_);
#else
    (void)finished;
#endif
#ifdef CCONVNET_EMULATOR_UCONTEXT
    swapcontext(&from.context_, &to.context_);
#else
    switch_stack(&from.stack_pointer_, to.stack_pointer_);
#endif
    arrived(&from);
  }

  // Must be called first on a stack that was switched to. `self` is null on a fresh one.
  static void arrived(Fiber* self) {
#ifdef CCONVNET_EMULATOR_ASAN
    const void* bottom = nullptr;
    size_t size = 0;
    __sanitizer_finish_switch_fiber(self ? self->fake_stack_ : nullptr, &bottom, &size);
    if (!previous_->own_) {
      previous_->bottom_ = static_cast<char*>(const_cast<void*>(bottom));
      previous_->size_ = size;
    }
#else
    (void)self;
#endif
  }

 private:
  char* bottom_ = nullptr;  // the lowest usable address; stacks grow down towards it
  size_t size_ = 0;
  void* mapping_ = nullptr;
  size_t mapped_bytes_ = 0;
  bool own_ = false;
#ifdef CCONVNET_EMULATOR_UCONTEXT
  ucontext_t context_;
#else
  void* stack_pointer_ = nullptr;
#endif
#ifdef CCONVNET_EMULATOR_ASAN
  void* fake_stack_ = nullptr;
  inline static Fiber* previous_ = nullptr;
#endif
};

// Fibers not in use. The one given back last is taken first, while its stack is still in the cache.
class FiberPool {
 public:
  Fiber* take() {
    if (free_.empty()) {
      all_.push_back(std::make_unique<Fiber>(all_.size()));
      free_.reserve(all_.size());  // so that give() cannot throw
      return all_.back().get();
    }
    Fiber* fiber = free_.back();
    free_.pop_back();
    return fiber;
  }

  void give(Fiber* fiber) { free_.push_back(fiber); }

 private:
  std::vector<std::unique_ptr<Fiber>> all_;
  std::vector<Fiber*> free_;
};

}  // namespace cconvnet::emulator
