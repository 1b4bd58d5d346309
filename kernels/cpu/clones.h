// One function compiled for several instruction sets, the best chosen when the library is loaded (AVX-512,
// AVX2, baseline). Elsewhere the compiler's target is all there is: NEON is part of every aarch64.
#pragma once

#include <cstdint>  // brings the C library's own macros

#if defined(__x86_64__) && defined(__GLIBC__) && defined(__GNUC__) && !defined(__clang__)
#define CCONVNET_CLONES __attribute__((target_clones("arch=x86-64-v4", "arch=x86-64-v3", "default")))
#else
#define CCONVNET_CLONES
#endif
