// Prints how the tiles of matrix products are shared out, as the kernels' own classes compute it:
//
//   thread NAME THREAD: ROWS | COLUMNS     the rows of a thread's outputs, and the first columns of its groups
//   swizzle NAME LINE: POSITION ...        where each chunk of a line is in shared memory, in chunks
//   result NAME ROW: POSITION ...          the same of each row of a warp's finished sums
//
// The host compiler builds it for the emulator; gemm_layout.py runs it.
#include <cstdio>
#include <string>
#include <vector>

#include "gemm/tensor_tile.cuh"

namespace cconvnet {
namespace {

struct Outputs {
  std::vector<int> rows, columns;
};

template <class Tile>
__global__ void find_outputs(Outputs* outputs) {
  const auto add = [outputs](const auto& product) {
    Outputs& mine = outputs[threadIdx.x];
    for (int i = 0; i < product.ROWS; ++i) mine.rows.push_back(product.row(i));
    for (int j = 0; j < product.GROUPS; ++j) mine.columns.push_back(product.column(j));
  };
  if constexpr (Tile::TENSOR) {
    add(TensorShare<Tile>(launch_shared_memory<TensorResult<Tile>>()));
  } else {
    add(Multiplier<Tile>());
  }
}

template <class Tile>
void print_threads() {
  std::vector<Outputs> outputs(Tile::THREADS);
  CCONVNET_LAUNCH_SHARED(find_outputs<Tile>, 1, Tile::THREADS, Tile::LAUNCH_BYTES, nullptr, outputs.data());
  for (int thread = 0; thread < Tile::THREADS; ++thread) {
    std::printf("thread %s %d:", Tile::name().c_str(), thread);
    for (int row : outputs[thread].rows) std::printf(" %d", row);
    std::printf(" |");
    for (int column : outputs[thread].columns) std::printf(" %d", column);
    std::printf("\n");
  }
}

template <class Tile>
void print_result() {
  for (int row = 0; row < Tile::WARP_M; ++row) {
    std::printf("result %s %d:", Tile::name().c_str(), row);
    for (int column = 0; column < Tile::WARP_N; column += 4) {
      std::printf(" %d", TensorResult<Tile>::place_of(row, column) / 4);
    }
    std::printf("\n");
  }
}

template <class Tile, int ROWS, bool ALONG_K>
void print_swizzle(const char* operand) {
  using Buffer = TensorBuffer<Tile, ROWS, ALONG_K>;
  for (int line = 0; line < Buffer::LINES; ++line) {
    std::printf("swizzle %s_%s_%s %d:", Tile::name().c_str(), operand, ALONG_K ? "along_k" : "across_k",
                line);
    for (int chunk = 0; chunk < Buffer::CHUNKS; ++chunk) {
      std::printf(" %d", Buffer::offset_of(line, chunk) / Tile::CHUNK);
    }
    std::printf("\n");
  }
}

template <class Tile>
void print_tensor_tile() {
  print_threads<Tile>();
  print_result<Tile>();
  print_swizzle<Tile, Tile::BLOCK_M, true>("a");
  print_swizzle<Tile, Tile::BLOCK_M, false>("a");
  print_swizzle<Tile, Tile::BLOCK_N, true>("b");
  print_swizzle<Tile, Tile::BLOCK_N, false>("b");
}

template <class Tile>
void print_fp32_tile() {
  print_threads<Tile>();
}

}  // namespace
}  // namespace cconvnet

int main() {
  using namespace cconvnet;
  // The tiles of the convolutions' selection tables.
  print_tensor_tile<TensorTile<bfloat16, 128, 128, 64, 64, 64, 3>>();
  print_tensor_tile<TensorTile<bfloat16, 192, 96, 64, 96, 48, 2>>();
  print_tensor_tile<TensorTile<bfloat16, 192, 96, 32, 96, 48, 4>>();
  print_tensor_tile<TensorTile<bfloat16, 128, 96, 64, 64, 48, 3>>();
  print_tensor_tile<TensorTile<bfloat16, 256, 48, 64, 64, 48, 2>>();
  print_tensor_tile<TensorTile<bfloat16, 256, 64, 64, 64, 64, 2>>();
  print_tensor_tile<TensorTile<bfloat16, 128, 64, 64, 64, 32, 3>>();
  print_tensor_tile<TensorTile<bfloat16, 64, 64, 64, 32, 32, 3>>();
  print_tensor_tile<TensorTile<float, 128, 128, 32, 64, 64, 3>>();
  print_tensor_tile<TensorTile<float, 128, 96, 32, 64, 48, 3>>();
  print_tensor_tile<TensorTile<float, 256, 48, 32, 64, 48, 2>>();
  print_tensor_tile<TensorTile<float, 256, 64, 32, 64, 64, 2>>();
  print_tensor_tile<TensorTile<float, 128, 64, 32, 64, 32, 3>>();
  print_tensor_tile<TensorTile<float, 64, 64, 32, 32, 32, 3>>();
  print_tensor_tile<TensorTile<bfloat16, 96, 128, 64, 48, 64, 3>>();
  print_tensor_tile<TensorTile<bfloat16, 64, 192, 64, 64, 48, 3>>();
  print_tensor_tile<TensorTile<bfloat16, 64, 128, 64, 32, 64, 3>>();
  print_tensor_tile<TensorTile<float, 96, 128, 32, 48, 64, 3>>();
  print_tensor_tile<TensorTile<float, 64, 192, 32, 64, 48, 3>>();
  print_tensor_tile<TensorTile<float, 64, 128, 32, 32, 64, 3>>();
  print_tensor_tile<SplitTensorTile<64, 64, 16, 32, 32, 4>>();
  print_fp32_tile<Tile<float, 128, 128, 16, 8, 8, 4>>();
  print_fp32_tile<Tile<float, 128, 96, 16, 8, 8, 4>>();
  print_fp32_tile<Tile<float, 128, 64, 16, 8, 8, 4>>();
  print_fp32_tile<Tile<float, 64, 64, 16, 8, 4, 4>>();
  print_fp32_tile<Tile<float, 128, 32, 16, 8, 4, 4>>();
  print_fp32_tile<Tile<float, 32, 32, 16, 4, 4, 4>>();
  print_fp32_tile<Tile<float, 96, 128, 16, 8, 8, 4>>();
  print_fp32_tile<Tile<float, 64, 128, 16, 8, 8, 4>>();
  print_fp32_tile<Tile<float, 32, 128, 16, 4, 8, 4>>();
}
