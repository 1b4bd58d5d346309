// Convolutions on tensor cores whose pixels are not whole pieces of 16 bytes: above all first layers, with
// three colours. They are matrix products as in gemm/implicit_gemm.cuh, but windows are read from patches of
// the image in shared memory (gemm/patch.cuh).
//
// fprop. A block computes 8 x 16 output pixels times BLOCK_N output channels, for one such patch after the
// other. Its filters stay in shared memory. The sums run in the order r, s, c, in words: two neighbouring
// elements of a filter row in bfloat16. A word that ends behind the row, or at a channel that does not exist,
// has a zero there in both operands.
//
// wgrad. A block computes BLOCK_M output channels times BLOCK_N weights of their filters. Its sums run over
// the pixels of a patch, then of the next. Where a patch hangs over the output both operands are zero.
// Each of the splits has consecutive patches.
#include "gemm/implicit_gemm.cuh"
#include "gemm/patch.cuh"

namespace cconvnet {
namespace {

using ptx::Word;

constexpr int kSlab = 8;  // words of k that tensor cores take at once

// The sizes of a block, as in TensorTile. PATCH_WORDS is the memory of a patch, DEPTH_WORDS that of a filter.
template <class T, int BLOCK_M, int BLOCK_N, int WARP_M, int WARP_N, int PATCH_WORDS_, int DEPTH_WORDS_ = 0>
struct FewChannelsTile : TensorTile<T, BLOCK_M, BLOCK_N, 64 / sizeof(T), WARP_M, WARP_N, 2> {
  static constexpr int PATCH_WORDS = PATCH_WORDS_, DEPTH_WORDS = DEPTH_WORDS_;
  static constexpr int PER_WORD = kPerWord<T>;
  static constexpr int FRAGMENTS_M = WARP_M / 16, FRAGMENTS_N = WARP_N / 8;
  static_assert(DEPTH_WORDS % kSlab == 0, "tensor cores take 8 words of k at once");

  static std::string name() {
    return "few_channels_" + std::string(PER_WORD == 2 ? "bf16_" : "tf32_") + std::to_string(BLOCK_M) + "x" +
           std::to_string(BLOCK_N);
  }
};

// Returns whether the rows of TensorTile, which copy 16 bytes, do not take so many channels.
template <class Tile>
bool few_channels(const ConvProblem& problem) {
  return Tile::multiplies(problem.precision) && problem.c_per_group() % Tile::WHOLE != 0;
}

// ---- fprop ----------------------------------------------------------------------------------------------

template <class T>
struct FewChannelsFprop {
  ConvProblem problem;
  int c_per_group, k_per_group;
  int pitch;  // of y's pixels
  int tiles_n;
  int row_words, words, slabs;  // of k: of a row of a filter, of a filter, in steps of 8
  PatchShape shape;
  PatchGrid grid;
  Divider by_words;
  const T *x, *w;
  EpilogueOutput<T> output;
};

// Where one word of k is in a window, and which of its bits belong to the sum.
struct Tap {
  uint32_t offset;
  Word mask;
};

template <class Tile>
struct alignas(128) FpropMemory {
  union {
    Word patch[Tile::PATCH_WORDS];
    TensorResult<Tile> result;
  };
  // Four more words put the 16 bytes of eight filters, which ldmatrix reads at once, on different banks.
  Word filters[Tile::BLOCK_N][Tile::DEPTH_WORDS + 4];
  Tap taps[Tile::DEPTH_WORDS];
};

// Bfloat16s are read in pairs. So windows must begin and taps must be an even number of elements apart, or
// each pixel gets one more channel, of zeros.
template <class T>
int fprop_pitch(const ConvProblem& problem) {
  const int channels = problem.c_per_group();
  const bool even = channels % kPerWord<T> == 0;
  return even || (problem.stride_w % kPerWord<T> == 0 && problem.dilation_w == 1) ? channels : channels + 1;
}

template <class T>
int fprop_row_words(const ConvProblem& problem) {
  return static_cast<int>(ceil_div(int64_t{problem.s} * fprop_pitch<T>(problem), kPerWord<T>));
}

struct PatchOutput {
  const ConvProblem& problem;
  int pitch;
  Patch patch;
  uint32_t first_channel;
  __device__ __forceinline__ uint32_t row(uint32_t m) const {
    const int p = patch.p + m / kPatchColumns, q = patch.q + m % kPatchColumns;
    if (p >= problem.p || q >= problem.q) return kOutside;
    return ((patch.n * problem.p + p) * problem.q + q) * pitch + first_channel;
  }
};

// The filters from first_filter on, of which `count` exist, and the taps.
template <class Tile, class T>
__device__ __forceinline__ void load_filters(FpropMemory<Tile>& memory, const FewChannelsFprop<T>& args,
                                             int first_filter, int count) {
  constexpr int PER_WORD = Tile::PER_WORD;
  const ConvProblem& problem = args.problem;
  const int depth = args.slabs * kSlab;
  for (int i = threadIdx.x; i < depth * Tile::BLOCK_N; i += Tile::THREADS) {
    int word;
    const int filter = args.by_words.divide(i, word);
    const int r = word / args.row_words, element = (word - r * args.row_words) * PER_WORD;
    Tap tap = {};
    Word value = 0;
#pragma unroll
    for (int j = 0; j < PER_WORD; ++j) {
      int channel;
      const int s = args.shape.by_pitch.divide(element + j, channel);
      if (word >= args.words || s >= problem.s) continue;
      if (j == 0) {
        tap.offset = (r * problem.dilation_h * args.shape.words) +
                     (s * problem.dilation_w * args.shape.pitch + channel) / PER_WORD;
      }
      tap.mask |= PER_WORD == 1 ? ~0u : 0xffffu << (16 * j);
      if (filter < count && channel < args.c_per_group) {
        const int row = ((first_filter + filter) * problem.r + r) * problem.s + s;
        value |= word_of(args.w[row * args.c_per_group + channel]) << (16 * j);
      }
    }
    memory.filters[filter][word] = value;
    if (filter == 0) memory.taps[word] = tap;
  }
}

// The products of the patch and the filters.
template <class Tile, class T>
__device__ __forceinline__ TensorProduct<Tile> multiply_patch(const FpropMemory<Tile>& memory,
                                                              const FewChannelsFprop<T>& args) {
  constexpr int PER_WORD = Tile::PER_WORD;
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, group = lane / 4, in_group = lane % 4;
  const int first_m = warp / Tile::WARPS_N * Tile::WARP_M, first_n = warp % Tile::WARPS_N * Tile::WARP_N;
  // 16 rows of a fragment are the columns of one row of outputs.
  static_assert(kPatchColumns == 16 && Tile::BLOCK_M == kPatchPixels, "a fragment is one row of outputs");
  const int column = args.problem.stride_w * args.shape.pitch;  // elements
  const int row = args.problem.stride_h * args.shape.words;
  const Word* const window = memory.patch + first_m / kPatchColumns * row + group * column / PER_WORD;
  const int eight = 8 * column / PER_WORD;
  const Word* filter = &memory.filters[first_n + lane / 16 * 8 + lane % 8][lane / 8 % 2 * 4];
  const Tap* tap = memory.taps + in_group;

  TensorProduct<Tile> product;
  for (int slab = 0; slab < args.slabs; ++slab, filter += kSlab, tap += kSlab) {
    typename TensorProduct<Tile>::Fragments fragments;
    const Tap first = tap[0], second = tap[4];
#pragma unroll
    for (int i = 0; i < Tile::FRAGMENTS_M; ++i) {
      const Word* const pixel = window + i * row;
      fragments.a[i].part[0] = pixel[first.offset] & first.mask;
      fragments.a[i].part[1] = pixel[first.offset + eight] & first.mask;
      fragments.a[i].part[2] = pixel[second.offset] & second.mask;
      fragments.a[i].part[3] = pixel[second.offset + eight] & second.mask;
    }
#pragma unroll
    for (int j = 0; j < Tile::FRAGMENTS_N / 2; ++j) {
      fragments.b[j] = ptx::load_matrices(filter + j * 16 * (Tile::DEPTH_WORDS + 4));
    }
    product.multiply(fragments);
  }
  return product;
}

template <class Tile, class T = typename Tile::Element>
__global__ void __launch_bounds__(Tile::THREADS, Tile::MIN_BLOCKS)
    conv_fprop_few_channels(FewChannelsFprop<T> args) {
  auto& memory = launch_shared_memory<FpropMemory<Tile>>();
  const int shares = args.tiles_n * args.problem.groups, share = blockIdx.x % shares;
  const int group = share / args.tiles_n, first_n = share % args.tiles_n * Tile::BLOCK_N;
  const int first_channel = group * args.k_per_group;
  load_filters(memory, args, first_channel + first_n, args.k_per_group - first_n);
  for (int i = blockIdx.x / shares; i < args.grid.count; i += gridDim.x / shares) {
    const Patch patch(args.grid, i);
    __syncthreads();
    patch.load<Tile::THREADS>(memory.patch, args.problem, args.shape, args.x + group * args.c_per_group,
                              args.c_per_group);
    __syncthreads();
    const TensorProduct<Tile> product = multiply_patch(memory, args);
    __syncthreads();
    product.store(memory.result);
    store_tile(TensorShare<Tile>(memory.result), args.output,
               PatchOutput{args.problem, args.pitch, patch, static_cast<uint32_t>(first_channel)}, 0, first_n,
               first_channel, Tile::BLOCK_M, args.k_per_group);
  }
}

// Two waves of three blocks on each multiprocessor; a block loads its filters once.
constexpr int64_t kFpropBlocks = 6 * cost::kMultiprocessors;

template <class Tile>
void launch_fprop(const ConvProblem& problem, const FpropArguments& args, Stream stream) {
  using T = typename Tile::Element;
  const int k_per_group = problem.k_per_group(), row_words = fprop_row_words<T>(problem);
  const int words = problem.r * row_words, slabs = static_cast<int>(ceil_div(words, kSlab));
  T* const y = static_cast<T*>(args.y) + problem.y_first;
  const bool vectors = whole_groups(k_per_group, y) && problem.pixel_pitch() % kGroup == 0;
  const int tiles_n = static_cast<int>(ceil_div(k_per_group, Tile::BLOCK_N));
  const FewChannelsFprop<T> parameters = {problem,
                                          problem.c_per_group(),
                                          k_per_group,
                                          problem.pixel_pitch(),
                                          tiles_n,
                                          row_words,
                                          words,
                                          slabs,
                                          PatchShape::make(problem, fprop_pitch<T>(problem), Tile::PER_WORD),
                                          PatchGrid::make(problem),
                                          Divider(slabs * kSlab),
                                          static_cast<const T*>(args.x),
                                          static_cast<const T*>(args.w),
                                          EpilogueOutput<T>(args.epilogue, y, vectors)};
  const int64_t shares = int64_t{tiles_n} * problem.groups;
  const int64_t each = std::min<int64_t>(parameters.grid.count, ceil_div(kFpropBlocks, shares));
  CCONVNET_LAUNCH_SHARED((conv_fprop_few_channels<Tile>), dim3(static_cast<unsigned>(shares * each)),
                         Tile::THREADS, sizeof(FpropMemory<Tile>), stream, parameters);
  parameters.output.after(args.epilogue, stream);
  apply(args.statistics, problem, args.y, args.sums, stream);
}

// A sum is whole: a filter that fits in shared memory is not split.
template <class Tile>
bool supports_fprop(const ConvProblem& problem) {
  using T = typename Tile::Element;
  const int64_t shares = ceil_div(problem.k_per_group(), Tile::BLOCK_N) * problem.groups;
  return few_channels<Tile>(problem) && shares <= INT32_MAX / 2 &&
         int64_t{problem.r} * fprop_row_words<T>(problem) <= Tile::DEPTH_WORDS &&
         PatchShape::fits(problem, fprop_pitch<T>(problem), Tile::PER_WORD, Tile::PATCH_WORDS);
}

// Instructions that load a word of a patch, and of dy, and of a step for each fragment, in the code of nvcc
// 13.0 for sm_90a.
constexpr int kPatchInstructions = 24, kCopyInstructions = 2;

template <class Tile>
int64_t fprop_cycles(const ConvProblem& problem) {
  using T = typename Tile::Element;
  const int64_t slabs = ceil_div(int64_t{problem.r} * fprop_row_words<T>(problem), kSlab);
  const int64_t patches = PatchGrid::make(problem).count, groups = problem.groups;
  const int64_t blocks = patches * ceil_div(problem.k_per_group(), Tile::BLOCK_N) * groups;
  const PatchShape shape = PatchShape::make(problem, fprop_pitch<T>(problem), Tile::PER_WORD);
  return cost::patches_cycles<Tile>(blocks, slabs, int64_t{shape.lines} * shape.words * kPatchInstructions,
                                    20 * Tile::FRAGMENTS_M + Tile::FRAGMENTS_N / 2, sizeof(FpropMemory<Tile>),
                                    Tile::BLOCK_M * Tile::BLOCK_N * sizeof(T));
}

// ---- wgrad ----------------------------------------------------------------------------------------------

template <class T>
struct FewChannelsWgrad {
  ConvProblem problem;
  int c_per_group, k_per_group;
  GemmGrid blocks;
  int each;  // patches of a split
  PatchShape shape;
  PatchGrid grid;
  Divider by_c, by_s;
  const T *x, *dy;
  Destination<GradientOutput> destination;
};

template <class Tile>
struct alignas(128) WgradMemory {
  // Eight more elements put what a fragment is made of on different banks.
  static constexpr int LINE = Tile::BLOCK_M + 8;
  struct Operands {
    typename Tile::Element dy[kPatchPixels][LINE];
    alignas(16) Word patch[Tile::PATCH_WORDS];
  };
  union {
    Operands operands;
    TensorResult<Tile> result;
  };
};

// The splits depend on the problem alone: two blocks of 96 x 160 for each multiprocessor, of four patches or
// more.
int patches_of_split(const ConvProblem& problem) {
  const int64_t weights = int64_t{problem.r} * problem.s * problem.c_per_group();
  const int64_t blocks = ceil_div(problem.k_per_group(), 96) * ceil_div(weights, 160) * problem.groups;
  const int64_t splits = std::max<int64_t>(1, 2 * cost::kMultiprocessors / blocks);
  return static_cast<int>(std::max<int64_t>(4, ceil_div(PatchGrid::make(problem).count, splits)));
}

int splits_of_patches(const ConvProblem& problem) {
  return static_cast<int>(ceil_div(PatchGrid::make(problem).count, patches_of_split(problem)));
}

struct FewChannelsOutput {
  int weights;  // of one filter
  uint32_t first_filter;
  __device__ __forceinline__ uint32_t row(uint32_t m) const { return (first_filter + m) * weights; }
};

// Starts the copies of dy at the patch's pixels, and of zeros where there are none.
template <class Tile, class T>
__device__ __forceinline__ void start_gradients(WgradMemory<Tile>& memory, const FewChannelsWgrad<T>& args,
                                                const Patch& patch, int group, int first_m) {
  // Neighbouring threads copy the chunks of a pixel, AT_ONCE pixels of a row at a time.
  constexpr int CHUNKS = Tile::BLOCK_M / Tile::CHUNK, MOST = Tile::THREADS / CHUNKS;
  constexpr int AT_ONCE = MOST >= 16 ? 16 : MOST >= 8 ? 8 : 4;
  static_assert(MOST >= 4 && kPatchColumns == 16, "a pass must be a part of a row");
  const ConvProblem& problem = args.problem;
  const int m = threadIdx.x % CHUNKS * Tile::CHUNK, first = threadIdx.x / CHUNKS;
  if (first >= AT_ONCE) return;
  const bool exists = first_m + m < args.k_per_group;
  const uint32_t row = problem.q * problem.k;
  const uint32_t offset = (patch.n * problem.p + patch.p) * row + (patch.q + first) * problem.k +
                          group * args.k_per_group + first_m + m;
#pragma unroll
  for (int i = 0; i < kPatchPixels; i += AT_ONCE) {
    const int p = i / kPatchColumns, q = i % kPatchColumns;
    const bool inside = exists && patch.p + p < problem.p && patch.q + q + first < problem.q;
    ptx::start_copy(&memory.operands.dy[i + first][m],
                    args.dy + (inside ? offset + p * row + q * problem.k : 0), inside);
  }
}

// Adds the products of dy and the patch, of which `rows` rows and `columns` columns of outputs exist.
// begins[j] is where the windows of column j of the warp's fragments begin, in elements.
template <class Tile, class T>
__device__ __forceinline__ void add_products(TensorProduct<Tile>& product, const WgradMemory<Tile>& memory,
                                             const FewChannelsWgrad<T>& args,
                                             const uint32_t (&begins)[Tile::FRAGMENTS_N], int rows,
                                             int columns) {
  constexpr int PER_WORD = Tile::PER_WORD, PRODUCT_K = Tile::PRODUCT_K, LINE = WgradMemory<Tile>::LINE;
  const int lane = threadIdx.x % 32, group = lane / 4, in_group = lane % 4;
  const int first_m = threadIdx.x / 32 / Tile::WARPS_N * Tile::WARP_M;
  const int stride = args.problem.stride_w * args.shape.pitch;
  const T* line = reinterpret_cast<const T*>(memory.operands.patch) + in_group * PER_WORD * stride;
  const T* dy = &memory.operands.dy[0][first_m];
  for (int row = 0; row < rows; ++row) {
#pragma unroll
    for (int first_q = 0; first_q < kPatchColumns; first_q += PRODUCT_K) {
      typename TensorProduct<Tile>::Fragments fragments;
#pragma unroll
      for (int i = 0; i < Tile::FRAGMENTS_M; ++i) {
        if constexpr (PER_WORD == 2) {
          const int pixel = lane / 16 * 8 + lane % 8, m = lane / 8 % 2 * 8;
          fragments.a[i] = ptx::load_matrices_transposed(dy + pixel * LINE + m + 16 * i);
        } else {
#pragma unroll
          for (int l = 0; l < 4; ++l) {
            const int pixel = first_q + l / 2 * 4 + in_group, m = l % 2 * 8 + group;
            fragments.a[i].part[l] = word_of(dy[pixel * LINE + m + 16 * i]);
          }
        }
      }
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        const int q = first_q + half * (PRODUCT_K / 2);
        Word mask = 0;
#pragma unroll
        for (int l = 0; l < PER_WORD; ++l) {
          if (q + in_group * PER_WORD + l < columns) mask |= PER_WORD == 1 ? ~0u : 0xffffu << (16 * l);
        }
#pragma unroll
        for (int j = 0; j < Tile::FRAGMENTS_N; ++j) {
          const T* const pixel = line + q * stride + begins[j];
          Word value = bits_of(pixel[0]);
          if constexpr (PER_WORD == 2) value |= bits_of(pixel[stride]) << 16;
          fragments.b[j / 2].part[j % 2 * 2 + half] = value & mask;
        }
      }
      product.multiply(fragments);
    }
    line += args.problem.stride_h * args.shape.words * PER_WORD;
    dy += kPatchColumns * LINE;
  }
}

template <class Tile, class T = typename Tile::Element>
__global__ void __launch_bounds__(Tile::THREADS, Tile::MIN_BLOCKS)
    conv_wgrad_few_channels(FewChannelsWgrad<T> args) {
  auto& memory = launch_shared_memory<WgradMemory<Tile>>();
  const ConvProblem& problem = args.problem;
  const GemmBlock block = GemmBlock::make<Tile>(args.blocks, blockIdx.x);
  const int weights = problem.r * problem.s * args.c_per_group;
  uint32_t begins[Tile::FRAGMENTS_N];
#pragma unroll
  for (int j = 0; j < Tile::FRAGMENTS_N; ++j) {
    const int n = block.n + threadIdx.x / 32 % Tile::WARPS_N * Tile::WARP_N + 8 * j + threadIdx.x % 32 / 4;
    // Columns beyond the last weight, which are not stored, repeat it.
    int channel, s;
    const int r = args.by_s.divide(args.by_c.divide(min(n, weights - 1), channel), s);
    begins[j] = r * problem.dilation_h * args.shape.words * Tile::PER_WORD +
                s * problem.dilation_w * args.shape.pitch + channel;
  }
  TensorProduct<Tile> product;
  const int first = block.split * args.each, end = min(first + args.each, args.grid.count);
  for (int i = first; i < end; ++i) {
    const Patch patch(args.grid, i);
    __syncthreads();
    start_gradients(memory, args, patch, block.batch, block.m);
    ptx::close_copy_group();
    patch.load<Tile::THREADS>(memory.operands.patch, problem, args.shape,
                              args.x + block.batch * args.c_per_group, args.c_per_group);
    ptx::wait_for_copies<0>();
    __syncthreads();
    add_products(product, memory, args, begins, min(problem.p - patch.p, kPatchRows),
                 min(problem.q - patch.q, kPatchColumns));
  }
  __syncthreads();
  product.store(memory.result);
  const uint32_t first_filter = block.batch * args.k_per_group;
  args.destination.store(TensorShare<Tile>(memory.result), block, FewChannelsOutput{weights, first_filter}, 0,
                         args.k_per_group, weights);
}

template <class Tile>
void launch_wgrad(const ConvProblem& problem, const WgradArguments& args, Stream stream) {
  using T = typename Tile::Element;
  const int c_per_group = problem.c_per_group(), weights = problem.r * problem.s * c_per_group;
  const GemmGrid blocks = {static_cast<uint32_t>(ceil_div(problem.k_per_group(), Tile::BLOCK_M)),
                           static_cast<uint32_t>(ceil_div(weights, Tile::BLOCK_N)),
                           static_cast<uint32_t>(splits_of_patches(problem)),
                           static_cast<uint32_t>(problem.groups)};
  const GradientOutput output(args.update, args.dw, whole_groups(weights, args.dw, args.workspace));
  const FewChannelsWgrad<T> parameters = {problem,
                                          c_per_group,
                                          problem.k_per_group(),
                                          blocks,
                                          patches_of_split(problem),
                                          PatchShape::make(problem, c_per_group, Tile::PER_WORD),
                                          PatchGrid::make(problem),
                                          Divider(c_per_group),
                                          Divider(problem.s),
                                          static_cast<const T*>(args.x),
                                          static_cast<const T*>(args.dy),
                                          {output, problem.w_count(), blocks, args.workspace}};
  CCONVNET_LAUNCH_SHARED((conv_wgrad_few_channels<Tile>), blocks.blocks(), Tile::THREADS,
                         sizeof(WgradMemory<Tile>), stream, parameters);
  parameters.destination.reduce(blocks, problem.w_count(), stream);
}

template <class Tile>
bool supports_wgrad(const ConvProblem& problem) {
  return few_channels<Tile>(problem) && problem.k_per_group() % Tile::WHOLE == 0 &&
         PatchShape::fits(problem, problem.c_per_group(), Tile::PER_WORD, Tile::PATCH_WORDS);
}

size_t wgrad_workspace(const ConvProblem& problem) {
  const size_t splits = splits_of_patches(problem);
  return splits == 1 ? 0 : splits * problem.w_count() * sizeof(float);
}

template <class Tile>
int64_t wgrad_cycles(const ConvProblem& problem) {
  constexpr bool bf16 = Tile::PER_WORD == 2;
  const int64_t weights = int64_t{problem.r} * problem.s * problem.c_per_group();
  const int64_t patches = patches_of_split(problem);
  const int64_t blocks = ceil_div(problem.k_per_group(), Tile::BLOCK_M) * ceil_div(weights, Tile::BLOCK_N) *
                         problem.groups * splits_of_patches(problem);
  const PatchShape shape = PatchShape::make(problem, problem.c_per_group(), Tile::PER_WORD);
  const int64_t loads = int64_t{shape.lines} * shape.words * kPatchInstructions +
                        kPatchPixels * Tile::BLOCK_M / Tile::PER_WORD * kCopyInstructions;
  return cost::patches_cycles<Tile>(blocks, patches * (kPatchPixels / Tile::PRODUCT_K), patches * loads,
                                    (bf16 ? 1 : 14) * Tile::FRAGMENTS_M + (bf16 ? 14 : 6) * Tile::FRAGMENTS_N,
                                    sizeof(WgradMemory<Tile>), Tile::BLOCK_M * Tile::BLOCK_N * sizeof(float));
}

// ---- selection ------------------------------------------------------------------------------------------

template <class Tile>
FpropTable::Row fprop_row() {
  return {"conv_fprop_" + Tile::name(),
          false,
          supports_fprop<Tile>,
          always,
          no_workspace,
          launch_fprop<Tile>,
          fprop_cycles<Tile>};
}

template <class Tile>
WgradTable::Row wgrad_row() {
  return {"conv_wgrad_" + Tile::name(),
          true,
          supports_wgrad<Tile>,
          always,
          wgrad_workspace,
          launch_wgrad<Tile>,
          wgrad_cycles<Tile>};
}

}  // namespace

std::vector<FpropTable::Row> few_channels_fprop_rows() {
  return {fprop_row<FewChannelsTile<bfloat16, 128, 64, 32, 64, 2048, 96>>(),
          fprop_row<FewChannelsTile<bfloat16, 128, 48, 32, 48, 5120, 224>>(),
          fprop_row<FewChannelsTile<float, 128, 64, 32, 64, 3072, 160>>(),
          fprop_row<FewChannelsTile<float, 128, 32, 32, 32, 8400, 368>>()};
}

std::vector<WgradTable::Row> few_channels_wgrad_rows() {
  return {wgrad_row<FewChannelsTile<bfloat16, 64, 160, 64, 32, 5120>>(),
          wgrad_row<FewChannelsTile<bfloat16, 96, 128, 96, 32, 5120>>(),
          wgrad_row<FewChannelsTile<bfloat16, 64, 32, 32, 32, 1024>>(),
          wgrad_row<FewChannelsTile<float, 64, 160, 64, 32, 8400>>(),
          wgrad_row<FewChannelsTile<float, 96, 128, 96, 32, 8400>>(),
          wgrad_row<FewChannelsTile<float, 64, 32, 32, 32, 2048>>()};
}

}  // namespace cconvnet
