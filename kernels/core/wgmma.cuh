// Products of a warp group, four neighbouring warps, whose factors are matrices in shared memory: PTX ISA 8.5,
// "Asynchronous Warpgroup Level Matrix Instructions". All 128 threads call each of them.
//
// Sums belong to the tensor cores from start_products() on until they are waited for.
#pragma once

#include <string>
#include <type_traits>

#include "core/ptx_call.cuh"
#include "core/tensor_map.h"
#ifndef __CUDACC__
#include "emulator/wgmma.h"
#endif

namespace cconvnet {

// Whether the current GPU has these instructions, and the build has code for them.
inline bool has_warp_groups() {
#ifdef __CUDACC__
  int device = 0, major = 0;
  CCONVNET_CHECK(cudaGetDevice(&device));
  CCONVNET_CHECK(cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, device));
  return major == 9 && std::string(CCONVNET_ARCHS).find("90a") != std::string::npos;
#else
  return true;
#endif
}

namespace ptx {

// ---- factors: "Matrix Descriptor Format" --------------------------------------------------------------------

// A matrix in the launch's shared memory, as the copy engine writes it: lines of line_bytes(SWIZZLE), 8 of which are
// followed by the next 8 `stride` bytes on. ALONG_K: each row of A (or column of B) is a line along k, of which a
// product takes 32 bytes; k is advanced by the address. Else a line has neighbouring rows of one k, and `leading` is
// the distance of the next line's rows.
template <Swizzle SWIZZLE>
__device__ __forceinline__ uint64_t factor(const void* shared, uint32_t stride,
                                           uint32_t leading CCONVNET_PTX_CALLER) {
#ifdef __CUDACC__
  const uint32_t address = shared_address(shared);
#else
  const uint32_t address = emulator::machine.shared_address({"matrix descriptor", file, line}, shared, 16);
#endif
  // Modes are numbered from the longest lines on.
  constexpr uint64_t mode = SWIZZLE == Swizzle::none ? 0 : 4 - static_cast<uint64_t>(SWIZZLE);
  return uint64_t{(address & 0x3ffff) >> 4} | uint64_t{leading >> 4} << 16 | uint64_t{stride >> 4} << 32 |
         mode << 62;
}

// The factor `bytes` further on, a multiple of 16.
__device__ __forceinline__ uint64_t advanced(uint64_t factor, uint32_t bytes) {
  return factor + (bytes >> 4);
}

// ---- products: "wgmma.mma_async" ----------------------------------------------------------------------------

#ifdef __CUDACC__

#define CCONVNET_NAMES_16 "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15"
#define CCONVNET_NAMES_24 CCONVNET_NAMES_16 ", %16, %17, %18, %19, %20, %21, %22, %23"
#define CCONVNET_NAMES_32 \
  CCONVNET_NAMES_16 ", %16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31"
#define CCONVNET_NAMES_48 \
  CCONVNET_NAMES_32 ", %32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47"
#define CCONVNET_NAMES_64 \
  CCONVNET_NAMES_48 ", %48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63"
#define CCONVNET_NAMES_96                                                                             \
  CCONVNET_NAMES_64                                                                                   \
  ", %64, %65, %66, %67, %68, %69, %70, %71, %72, %73, %74, %75, %76, %77, %78, %79, %80, %81, %82, " \
  "%83, %84, %85, %86, %87, %88, %89, %90, %91, %92, %93, %94, %95"
#define CCONVNET_NAMES_128                                                                               \
  CCONVNET_NAMES_96                                                                                      \
  ", %96, %97, %98, %99, %100, %101, %102, %103, %104, %105, %106, %107, %108, %109, %110, %111, %112, " \
  "%113, %114, %115, %116, %117, %118, %119, %120, %121, %122, %123, %124, %125, %126, %127"
#define CCONVNET_SUMS_4(i) "+f"(c[i]), "+f"(c[i + 1]), "+f"(c[i + 2]), "+f"(c[i + 3])
#define CCONVNET_SUMS_16_FROM(i) \
  CCONVNET_SUMS_4(i), CCONVNET_SUMS_4(i + 4), CCONVNET_SUMS_4(i + 8), CCONVNET_SUMS_4(i + 12)
#define CCONVNET_SUMS_16 CCONVNET_SUMS_16_FROM(0)
#define CCONVNET_SUMS_24 CCONVNET_SUMS_16, CCONVNET_SUMS_4(16), CCONVNET_SUMS_4(20)
#define CCONVNET_SUMS_32 CCONVNET_SUMS_16, CCONVNET_SUMS_16_FROM(16)
#define CCONVNET_SUMS_48 CCONVNET_SUMS_32, CCONVNET_SUMS_16_FROM(32)
#define CCONVNET_SUMS_64 CCONVNET_SUMS_48, CCONVNET_SUMS_16_FROM(48)
#define CCONVNET_SUMS_96 CCONVNET_SUMS_64, CCONVNET_SUMS_16_FROM(64), CCONVNET_SUMS_16_FROM(80)
#define CCONVNET_SUMS_128 CCONVNET_SUMS_96, CCONVNET_SUMS_16_FROM(96), CCONVNET_SUMS_16_FROM(112)

// The instructions of COLUMNS columns, with COUNT sums. The operands behind the sums are the factors and, of bfloat16s,
// whether each lies across k; floats lie along k. The predicate says that the products are added to the sums.
#define CCONVNET_COLUMNS(columns, count, of_a, of_b, a_across, b_across)                                    \
  if constexpr (N == columns && sizeof(T) == 2) {                                                           \
    CCONVNET_PTX_90("{ .reg .pred adds; setp.eq.u32 adds, 0, 0; wgmma.mma_async.sync.aligned.m64n" #columns \
                    "k16.f32.bf16.bf16 {" CCONVNET_NAMES_##count "}, " of_a ", " of_b                       \
                                                                 ", adds, 1, 1, " a_across ", " b_across    \
                                                                 "; }" : CCONVNET_SUMS_##count : "l"(a),    \
                    "l"(b), "n"(!A_ALONG_K), "n"(!B_ALONG_K));                                              \
  } else if constexpr (N == columns) {                                                                      \
    CCONVNET_PTX_90("{ .reg .pred adds; setp.eq.u32 adds, 0, 0; wgmma.mma_async.sync.aligned.m64n" #columns \
                    "k8.f32.tf32.tf32 {" CCONVNET_NAMES_##count                                             \
                    "}, " of_a ", " of_b ", adds, 1, 1; }" : CCONVNET_SUMS_##count : "l"(a),                \
                    "l"(b));                                                                                \
  }

template <int N, class T, bool A_ALONG_K, bool B_ALONG_K>
__device__ __forceinline__ void product_instruction(float (&c)[N / 2], uint64_t a, uint64_t b) {
  static_assert(N == 32 || N == 48 || N == 64 || N == 96 || N == 128 || N == 192 || N == 256,
                "as written out here");
  static_assert(sizeof(T) == 2 || (A_ALONG_K && B_ALONG_K), "floats lie along k");

  CCONVNET_COLUMNS(32, 16, "%16", "%17", "%18", "%19")
  CCONVNET_COLUMNS(48, 24, "%24", "%25", "%26", "%27")
  CCONVNET_COLUMNS(64, 32, "%32", "%33", "%34", "%35")
  CCONVNET_COLUMNS(96, 48, "%48", "%49", "%50", "%51")
  CCONVNET_COLUMNS(128, 64, "%64", "%65", "%66", "%67")
  CCONVNET_COLUMNS(192, 96, "%96", "%97", "%98", "%99")
  CCONVNET_COLUMNS(256, 128, "%128", "%129", "%130", "%131")
}

#undef CCONVNET_COLUMNS
#undef CCONVNET_SUMS_4
#undef CCONVNET_SUMS_16_FROM
#undef CCONVNET_SUMS_16
#undef CCONVNET_NAMES_16
#undef CCONVNET_SUMS_24
#undef CCONVNET_NAMES_24
#undef CCONVNET_SUMS_32
#undef CCONVNET_NAMES_32
#undef CCONVNET_SUMS_48
#undef CCONVNET_NAMES_48
#undef CCONVNET_SUMS_64
#undef CCONVNET_NAMES_64
#undef CCONVNET_SUMS_96
#undef CCONVNET_NAMES_96
#undef CCONVNET_SUMS_128
#undef CCONVNET_NAMES_128

// The compiler keeps sums in their registers from here on.
__device__ __forceinline__ void hold(float& sum) {
  asm volatile("" : "+f"(sum)::"memory");
}
template <class Sums, int COUNT>
__device__ __forceinline__ void hold(Sums (&sums)[COUNT]) {
#pragma unroll
  for (int i = 0; i < COUNT; ++i) hold(sums[i]);
}

#endif

// Adds to a warp's 16 rows of C[64, N] the products of 32 bytes of k: 16 bfloat16s or 8 floats, which count as tf32s.
// Of the group's warp w, lane l has in c[4 * j + i] row 16 * w + l / 4 + i / 2 * 8 and
// column 8 * j + l % 4 * 2 + i % 2.
template <int N, class T, bool A_ALONG_K, bool B_ALONG_K>
__device__ __forceinline__ void start_product(float (&c)[N / 2], uint64_t a, uint64_t b CCONVNET_PTX_CALLER) {
#ifdef __CUDACC__
  product_instruction<N, T, A_ALONG_K, B_ALONG_K>(c, a, b);
#else
  const char* const name = emulator::product_name<N, 32 / sizeof(T)>.text;
  emulator::start_product({{name, file, line}, N, sizeof(T), a, b, A_ALONG_K, B_ALONG_K}, c);
#endif
}

// To be called before the first product, and before those that follow a wait.
template <class Sums>
__device__ __forceinline__ void start_products(Sums& sums CCONVNET_PTX_CALLER) {
#ifdef __CUDACC__
  hold(sums);
  CCONVNET_PTX_90("wgmma.fence.sync.aligned;" :: : "memory");
#else
  (void)sums;
  emulator::fence_products({"wgmma.fence", file, line});
#endif
}

// The products since the last such call become a group.
__device__ __forceinline__ void close_product_group(CCONVNET_PTX_CALLER_ALONE) {
#ifdef __CUDACC__
  CCONVNET_PTX_90("wgmma.commit_group.sync.aligned;" :: : "memory");
#else
  emulator::close_product_group({"wgmma.commit_group", file, line});
#endif
}

// Waits until at most the last PENDING groups are in flight. The factors of the others may be written again; their
// sums may be used if no group in flight adds to them.
template <int PENDING, class Sums>
__device__ __forceinline__ void wait_for_products(Sums& sums CCONVNET_PTX_CALLER) {
#ifdef __CUDACC__
  hold(sums);
  CCONVNET_PTX_90("wgmma.wait_group.sync.aligned %0;" ::"n"(PENDING) : "memory");
  hold(sums);
#else
  (void)sums;
  emulator::wait_for_products({"wgmma.wait_group", file, line}, PENDING);
#endif
}

}  // namespace ptx
}  // namespace cconvnet
