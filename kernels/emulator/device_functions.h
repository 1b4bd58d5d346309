// Functions that CUDA offers to device code without any header: mathematics, bits, atomics, fences.
//
// The fast approximations (__expf, __fdividef, ...) are exact here; their error is measured on a GPU.
// Floating-point atomics do not compile: the order of additions, and so the sum, would differ from run to
// run.
#pragma once

#include <math.h>

#include <cmath>
#include <cstdint>
#include <cstring>
#include <type_traits>

#include "machine.h"

// ---- mathematics ----------------------------------------------------------------------------------------

#define CCONVNET_EMULATOR_MIN_MAX(T) \
  constexpr T min(T a, T b) {        \
    return b < a ? b : a;            \
  }                                  \
  constexpr T max(T a, T b) {        \
    return a < b ? b : a;            \
  }

CCONVNET_EMULATOR_MIN_MAX(int)
CCONVNET_EMULATOR_MIN_MAX(unsigned)
CCONVNET_EMULATOR_MIN_MAX(long)
CCONVNET_EMULATOR_MIN_MAX(unsigned long)
CCONVNET_EMULATOR_MIN_MAX(long long)
CCONVNET_EMULATOR_MIN_MAX(unsigned long long)
#undef CCONVNET_EMULATOR_MIN_MAX

// As in CUDA, a mixed pair is compared unsigned.
constexpr unsigned min(int a, unsigned b) {
  return min(static_cast<unsigned>(a), b);
}
constexpr unsigned min(unsigned a, int b) {
  return min(a, static_cast<unsigned>(b));
}
constexpr unsigned max(int a, unsigned b) {
  return max(static_cast<unsigned>(a), b);
}
constexpr unsigned max(unsigned a, int b) {
  return max(a, static_cast<unsigned>(b));
}

// As in CUDA, these return the number if one of the two is NaN.
inline float min(float a, float b) {
  return fminf(a, b);
}
inline float max(float a, float b) {
  return fmaxf(a, b);
}
inline double min(double a, double b) {
  return fmin(a, b);
}
inline double max(double a, double b) {
  return fmax(a, b);
}

inline float rsqrtf(float x) {
  return 1.0f / sqrtf(x);
}
inline double rsqrt(double x) {
  return 1.0 / sqrt(x);
}
inline float __saturatef(float x) {
  return fminf(fmaxf(x, 0.0f), 1.0f);
}  // NaN gives 0

inline float __fadd_rn(float a, float b) {
  return a + b;
}
inline float __fsub_rn(float a, float b) {
  return a - b;
}
inline float __fmul_rn(float a, float b) {
  return a * b;
}
inline float __fdiv_rn(float a, float b) {
  return a / b;
}
inline float __fsqrt_rn(float x) {
  return sqrtf(x);
}
inline float __frcp_rn(float x) {
  return 1.0f / x;
}
inline float __fmaf_rn(float a, float b, float c) {
  return fmaf(a, b, c);
}

inline float __expf(float x) {
  return expf(x);
}
inline float __exp10f(float x) {
  return powf(10.0f, x);
}
inline float __logf(float x) {
  return logf(x);
}
inline float __log2f(float x) {
  return log2f(x);
}
inline float __log10f(float x) {
  return log10f(x);
}
inline float __powf(float x, float y) {
  return powf(x, y);
}
inline float __sinf(float x) {
  return sinf(x);
}
inline float __cosf(float x) {
  return cosf(x);
}
inline float __tanf(float x) {
  return tanf(x);
}
inline float __fdividef(float a, float b) {
  return a / b;
}

// ---- bits -----------------------------------------------------------------------------------------------

inline unsigned __umulhi(unsigned a, unsigned b) {
  return static_cast<unsigned>((uint64_t{a} * b) >> 32);
}
inline int __mulhi(int a, int b) {
  return static_cast<int>((int64_t{a} * b) >> 32);
}
inline int __popc(unsigned x) {
  return __builtin_popcount(x);
}
inline int __clz(int x) {
  return x ? __builtin_clz(static_cast<unsigned>(x)) : 32;
}
inline int __ffs(int x) {
  return __builtin_ffs(x);
}

namespace cconvnet::emulator {

template <class To, class From>
To bit_cast(From from) {
  static_assert(sizeof(To) == sizeof(From), "a bit cast keeps the size");
  To to;
  std::memcpy(&to, &from, sizeof to);
  return to;
}

}  // namespace cconvnet::emulator

inline int __float_as_int(float x) {
  return cconvnet::emulator::bit_cast<int>(x);
}
inline unsigned __float_as_uint(float x) {
  return cconvnet::emulator::bit_cast<unsigned>(x);
}
inline float __int_as_float(int x) {
  return cconvnet::emulator::bit_cast<float>(x);
}
inline float __uint_as_float(unsigned x) {
  return cconvnet::emulator::bit_cast<float>(x);
}

// ---- memory ---------------------------------------------------------------------------------------------

template <class T>
__attribute__((always_inline)) inline T __ldg(const T* address) {
  return *address;
}

// Threads run one at a time on one processor: every write is seen by all at once.
inline void __threadfence() {}
inline void __threadfence_block() {}
inline void __threadfence_system() {}

namespace cconvnet::emulator {

template <class T>
struct Identity {
  using Type = T;
};

// Threads run one at a time, so a plain read and write is atomic. The second argument takes no part in
// finding T, as in CUDA, where it is converted to the type that is pointed to.
template <class T, class Operation>
__attribute__((always_inline)) inline T atomic(T* address, Operation operation) {
  static_assert(!std::is_floating_point_v<T>,
                "floating-point atomics are forbidden: the order of additions, and with it the result, would "
                "differ from run to run");
  static_assert(std::is_floating_point_v<T> || (std::is_integral_v<T> && (sizeof(T) == 4 || sizeof(T) == 8)),
                "CUDA has atomics on 4-byte and 8-byte integers");
  counting::atomic(address, sizeof(T));
  const counting::Paused paused;
  const T old = *address;
  *address = operation(old);
  return old;
}

}  // namespace cconvnet::emulator

#define CCONVNET_EMULATOR_ATOMIC(name, expression)                                                     \
  template <class T>                                                                                   \
  __attribute__((always_inline)) inline T name(T* address,                                             \
                                               typename cconvnet::emulator::Identity<T>::Type value) { \
    return cconvnet::emulator::atomic(address, [value](T old) -> T {                                   \
      (void)old;                                                                                       \
      return expression;                                                                               \
    });                                                                                                \
  }

// Wraps around, also if T is signed.
CCONVNET_EMULATOR_ATOMIC(atomicAdd, static_cast<T>(static_cast<uint64_t>(old) + static_cast<uint64_t>(value)))
CCONVNET_EMULATOR_ATOMIC(atomicMax, old < value ? value : old)
CCONVNET_EMULATOR_ATOMIC(atomicMin, value < old ? value : old)
CCONVNET_EMULATOR_ATOMIC(atomicAnd, old& value)
CCONVNET_EMULATOR_ATOMIC(atomicOr, old | value)
CCONVNET_EMULATOR_ATOMIC(atomicXor, old ^ value)
CCONVNET_EMULATOR_ATOMIC(atomicExch, value)
#undef CCONVNET_EMULATOR_ATOMIC

// Counts up to `limit`, then restarts at 0.
__attribute__((always_inline)) inline unsigned atomicInc(unsigned* address, unsigned limit) {
  return cconvnet::emulator::atomic(address, [limit](unsigned old) { return old >= limit ? 0 : old + 1; });
}

template <class T>
__attribute__((always_inline)) inline T atomicCAS(T* address,
                                                  typename cconvnet::emulator::Identity<T>::Type expected,
                                                  typename cconvnet::emulator::Identity<T>::Type value) {
  return cconvnet::emulator::atomic(address, [=](T old) { return old == expected ? value : old; });
}

// Ends the kernel with an error.
[[noreturn]] inline void __trap(const char* file = __builtin_FILE(), int line = __builtin_LINE()) {
  cconvnet::emulator::machine.fail<cconvnet::emulator::KernelError>({"__trap", file, line}, "called");
}
