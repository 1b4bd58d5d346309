// Results of a GPU's instructions, on a GPU or in the emulator, for comparison. Each check runs one wrapper
// of ptx.cuh, barriers.cuh, copy_engine.cuh or wgmma.cuh, or one device function that the kernels use, on given inputs and prints the resulting words.
//
// This file is compiled twice: by nvcc for a GPU, and by a host compiler, where the wrappers' lane-level
// references and the emulator's functions run instead. conformance.py builds both and compares their lines.
// The headers in conformance/ contain the checks by subject; this file lists and runs them.
//
//   conformance [--list] [--device N] [--schedule forward|reverse|random] [check...]
//
// A line: {"check": name, "of": the one architecture that has the instruction, or nothing,
//          "exact": whether all words must be equal, "float": whether they are floats, "words": "hexadecimal"}
// Results of floating-point arithmetic are printed with one NaN for all, since its bits are unspecified.
// Inputs of checks that must be exact have exact sums. The other checks measure in which order tensor cores
// add, how many bits they keep meanwhile, and the errors of approximations.
#include <cstdio>
#include <cstdlib>
#include <functional>
#include <string>
#include <vector>

#include "conformance/clusters.cuh"
#include "conformance/copies.cuh"
#include "conformance/functions.cuh"
#include "conformance/products.cuh"
#include "conformance/threads.cuh"
#include "conformance/warp_groups.cuh"
#include "conformance/words.cuh"
#include "core/larger.h"
#include "core/philox.h"

namespace {

struct Check {
  const char* name;
  bool exact, floats;
  std::function<Words()> run;
  const char* of = "";
};

constexpr bool EXACT = true, MEASURED = false, WORDS = false, FLOATS = true;

template <class Function>
std::function<Words()> approximation(float low, float high) {
  return [low, high] {
    const Words values = moderate_floats(low, high);
    return canonical(of_words<Function>(values, values, values));
  };
}

std::vector<Check> all_checks() {
  return {
      // ptx.cuh
      {"start_copy, close_copy_group, wait_for_copies", EXACT, WORDS, [] { return copies_beside(false); }},
      {"start_copy of zeros from a null address", EXACT, WORDS, [] { return copies_beside(true); }},
      {"load_matrices", EXACT, WORDS, loaded_matrices<false>},
      {"load_matrices_transposed", EXACT, WORDS, loaded_matrices<true>},
      {"multiply_add_bf16", EXACT, FLOATS, exact_products<Type::bf16>},
      {"multiply_add_bf16 of infinities and NaNs", EXACT, FLOATS, special_products<Type::bf16>},
      {"multiply_add_tf32", EXACT, FLOATS, exact_products<Type::tf32>},
      {"multiply_add_tf32 of infinities and NaNs", EXACT, FLOATS, special_products<Type::tf32>},
      {"to_tf32", EXACT, WORDS, of_floats<ToTf32>},
      {"maximum", EXACT, FLOATS, [] { return canonical(of_pairs<LargerOrNan>()); }},
      {"maximum_bf16", EXACT, WORDS, of_pairs<LargerPair>},
      {"equal_bf16", EXACT, WORDS, of_pairs<EqualPair>},
      {"positive_bf16", EXACT, WORDS, of_pairs<PositivePair>},
      // bfloat16.h
      {"to_bfloat16", EXACT, WORDS, of_floats<ToBfloat16>},
      {"to_float", EXACT, WORDS, of_floats<FromBfloat16>},
      {"round_to_bfloat16, first", EXACT, FLOATS, [] { return canonical(of_pairs<FirstRounded>()); }},
      {"round_to_bfloat16, second", EXACT, FLOATS, [] { return canonical(of_pairs<SecondRounded>()); }},
      // arithmetic
      {"__fadd_rn", EXACT, FLOATS, [] { return canonical(of_pairs<Sum>()); }},
      {"__fmul_rn", EXACT, FLOATS, [] { return canonical(of_pairs<Multiplied>()); }},
      {"fmaf", EXACT, FLOATS, [] { return canonical(of_pairs<Fused>()); }},
      {"quotient", EXACT, FLOATS, [] { return canonical(of_pairs<Quotient>()); }},
      {"sqrtf", EXACT, FLOATS, [] { return canonical(of_floats<Root>()); }},
      {"larger", EXACT, FLOATS, [] { return canonical(of_pairs<Larger>()); }},
      {"fmaxf", EXACT, FLOATS, [] { return without_opposite_zeros(of_pairs<Maximum>()); }},
      {"fminf", EXACT, FLOATS, [] { return without_opposite_zeros(of_pairs<Minimum>()); }},
      {"__umulhi", EXACT, WORDS, of_integers<HighProduct>},
      {"__mulhi", EXACT, WORDS, of_integers<HighSignedProduct>},
      {"__popc", EXACT, WORDS, of_integers<BitCount>},
      {"__clz", EXACT, WORDS, of_integers<LeadingZeros>},
      {"__ffs", EXACT, WORDS, of_integers<FirstBit>},
      {"philox_word", EXACT, WORDS, of_integers<Random>},
      {"Divider", EXACT, WORDS, of_divisions},
      // warps, blocks, memory
      {"__shfl_sync, __shfl_up_sync, __shfl_down_sync, __shfl_xor_sync", EXACT, WORDS, of_shuffles},
      {"votes and barriers", EXACT, WORDS, of_votes},
      {"atomics", EXACT, WORDS, of_atomics},
      {"vectors", EXACT, WORDS, of_vectors},
      {"launch_shared_memory", EXACT, WORDS, of_whole_room},
      {"wait_for_kernel_ahead, start_kernel_behind", EXACT, WORDS, of_chained_kernels},
      // Measured: differences of a chip where nothing is promised.
      {"fmaxf of opposite zeros", MEASURED, WORDS, [] { return opposite_zeros(of_words<Maximum>); }},
      {"fminf of opposite zeros", MEASURED, WORDS, [] { return opposite_zeros(of_words<Minimum>); }},
      {"multiply_add_bf16, rounded sums", MEASURED, FLOATS, real_products<Type::bf16>},
      {"multiply_add_tf32, rounded sums", MEASURED, FLOATS, real_products<Type::tf32>},
      {"multiply_add_bf16, ones beside 2^16 to 2^31", MEASURED, FLOATS, absorbing_products<Type::bf16>},
      {"multiply_add_tf32, ones beside 2^16 to 2^31", MEASURED, FLOATS, absorbing_products<Type::tf32>},
      {"multiply_add_bf16, subnormal", MEASURED, FLOATS, subnormal_products<Type::bf16>},
      {"multiply_add_tf32, subnormal", MEASURED, FLOATS, subnormal_products<Type::tf32>},
      {"expf", MEASURED, FLOATS, approximation<Exponential>(-80, 80)},
      {"logf", MEASURED, FLOATS, approximation<Logarithm>(0, 1000)},
      {"log1pf", MEASURED, FLOATS, approximation<LogarithmOf1Plus>(0, 10)},
      {"powf(x, -0.75f)", MEASURED, FLOATS, approximation<Power>(1, 100)},
      {"tanhf", MEASURED, FLOATS, approximation<Tangent>(-10, 10)},
      {"rsqrtf", MEASURED, FLOATS, approximation<ReciprocalRoot>(1e-3f, 1000)},
      {"reciprocal_root", MEASURED, FLOATS, approximation<FastReciprocalRoot>(1e-3f, 1000)},
      {"__fdividef(1, x)", MEASURED, FLOATS, approximation<FastQuotient>(1e-3f, 1000)},
  };
}

// Of compute capability 9.0 alone.
std::vector<Check> warp_group_checks() {
  std::vector<Check> checks = {
      {"init_barrier, arrive, wait", EXACT, WORDS, of_phases},
      {"arrive_and_expect, prefetch_map: a ring of stages", EXACT, WORDS, of_ring},
      {"meet", EXACT, WORDS, of_meetings},
      {"is_elected", EXACT, WORDS, of_elections},
      {"give_registers, take_registers", EXACT, FLOATS, of_registers},
      {"block_of_cluster, arrive_at_cluster, wait_for_cluster, load_from_block, store_to_block", EXACT, WORDS,
       of_exchange},
      {"arrive_in_block, load_box to a pair: a ring of stages", EXACT, WORDS, of_pair_ring},
      {"load_box, load_windows to blocks of a cluster", EXACT, WORDS, of_loads_for_others},
      {"load_box", EXACT, WORDS, [] { return loaded_boxes(Swizzle::none); }},
      {"load_box, lines of 32 bytes swizzled", EXACT, WORDS, [] { return loaded_boxes(Swizzle::bytes_32); }},
      {"load_box, lines of 64 bytes swizzled", EXACT, WORDS, [] { return loaded_boxes(Swizzle::bytes_64); }},
      {"load_box, lines of 128 bytes swizzled", EXACT, WORDS,
       [] { return loaded_boxes(Swizzle::bytes_128); }},
      {"load_box of 3 dimensions", EXACT, WORDS, loaded_boxes_of_3},
      {"load_windows", EXACT, WORDS, loaded_windows_of_all},
      {"store_box", EXACT, WORDS, [] { return stored_boxes(Swizzle::none); }},
      {"store_box, lines of 32 bytes swizzled", EXACT, WORDS, [] { return stored_boxes(Swizzle::bytes_32); }},
      {"store_box, lines of 64 bytes swizzled", EXACT, WORDS, [] { return stored_boxes(Swizzle::bytes_64); }},
      {"store_box, lines of 128 bytes swizzled", EXACT, WORDS,
       [] { return stored_boxes(Swizzle::bytes_128); }},
      {"start_product, lines of 32 bytes", EXACT, FLOATS, exact_products_along_k<bfloat16, 32>},
      {"start_product, lines of 64 bytes", EXACT, FLOATS, exact_products_along_k<bfloat16, 64>},
      {"start_product, lines of 128 bytes", EXACT, FLOATS, exact_products_along_k<bfloat16, 128>},
      {"start_product across k, lines of 32 bytes", EXACT, FLOATS, exact_products_across_k<32>},
      {"start_product across k, lines of 64 bytes", EXACT, FLOATS, exact_products_across_k<64>},
      {"start_product across k, lines of 128 bytes", EXACT, FLOATS, exact_products_across_k<128>},
      {"start_product of floats, lines of 32 bytes", EXACT, FLOATS, exact_products_along_k<float, 32>},
      {"start_product of floats, lines of 128 bytes", EXACT, FLOATS, exact_products_along_k<float, 128>},
      {"start_product of 32 to 256 columns", EXACT, FLOATS, exact_products_of_all_columns},
      {"start_product without a swizzle", EXACT, FLOATS, exact_products_along_k<bfloat16, 16>},
      {"start_product across k without a swizzle", EXACT, FLOATS, exact_products_across_k<16>},
      {"start_product of factors that begin at line 1", EXACT, FLOATS, exact_products_behind_lines<1>},
      {"start_product of factors that begin at line 6", EXACT, FLOATS, exact_products_behind_lines<6>},
      {"start_product, rounded sums", MEASURED, FLOATS, real_warp_group_products<bfloat16>},
      {"start_product of floats, rounded sums", MEASURED, FLOATS, real_warp_group_products<float>},
  };
  for (Check& check : checks) check.of = "sm_90a";
  return checks;
}

void select_device(int device) {
#ifdef __CUDACC__
  CCONVNET_CHECK(cudaSetDevice(device));
#else
  (void)device;
#endif
}

void select_schedule(const std::string& name) {
#ifdef __CUDACC__
  (void)name;
#else
  using emulator::Schedule;
  emulator::set_schedule(name == "reverse"  ? Schedule::reverse
                         : name == "random" ? Schedule::random
                                            : Schedule::forward,
                         1);
#endif
}

void print(const Check& check, const Words& words) {
  std::printf("{\"check\": \"%s\", \"of\": \"%s\", \"exact\": %s, \"float\": %s, \"words\": \"", check.name,
              check.of, check.exact ? "true" : "false", check.floats ? "true" : "false");
  for (uint32_t word : words) std::printf("%08x", word);
  std::printf("\"}\n");
  std::fflush(stdout);
}

int run(int argc, char** argv) {
  std::vector<std::string> wanted;
  bool list = false;
  for (int i = 1; i < argc; ++i) {
    const std::string word = argv[i];
    if (word == "--list") {
      list = true;
    } else if (word == "--device" && i + 1 < argc) {
      select_device(std::atoi(argv[++i]));
    } else if (word == "--schedule" && i + 1 < argc) {
      select_schedule(argv[++i]);
    } else {
      wanted.push_back(word);
    }
  }
  std::vector<Check> checks = all_checks();
  if (has_warp_groups()) {
    for (Check& check : warp_group_checks()) checks.push_back(std::move(check));
  }
  for (const Check& check : checks) {
    bool chosen = wanted.empty();
    for (const std::string& name : wanted) chosen = chosen || name == check.name;
    if (!chosen) continue;
    if (list) {
      std::printf("%s\n", check.name);
    } else {
      print(check, check.run());
    }
  }
  return 0;
}

}  // namespace

int main(int argc, char** argv) {
  try {
    return run(argc, argv);
  } catch (const std::exception& error) {
    std::fprintf(stderr, "%s\n", error.what());
    return 1;
  }
}
