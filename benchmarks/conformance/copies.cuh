// Checks of asynchronous copies into shared memory, and of matrices loaded from it.
#pragma once

#include "words.cuh"
#include "core/ptx.cuh"

namespace {

// ---- asynchronous copies ----------------------------------------------------------------------------------

constexpr int kGroups = 5;

struct alignas(16) CopyShared {
  uint4 at[kGroups][kLanes];
};

// Group g copies 16 bytes for each lane, some of them zeros; a lane reads its neighbour's after each wait.
// Zeros come from `nowhere`, which must not be read.
__global__ void copies(const uint4* x, const uint4* nowhere, uint4* y) {
  CopyShared& shared = shared_memory<CopyShared>();
  const int t = threadIdx.x;
  for (int g = 0; g < kGroups; ++g) {
    const bool inside = (t + g) % 3 != 0;
    ptx::start_copy(&shared.at[g][t], inside ? x + g * kLanes + t : nowhere, inside);
    ptx::close_copy_group();
  }
  const auto look = [&](int done) {
    __syncthreads();
    for (int g = 0; g < done; ++g) *y++ = shared.at[g][t ^ 5];
  };
  y += t * 12;
  ptx::wait_for_copies<3>();
  look(2);
  ptx::wait_for_copies<1>();
  look(4);
  ptx::wait_for_copies<0>();
  look(5);
  y[0] = shared.at[0][t];
}

Words copies_beside(bool null) {
  const DeviceWords x(Draw(5).words(kGroups * kLanes * 4)), y(kLanes * 12 * 4);
  const uint4* const nowhere = null ? nullptr : x.at<const uint4>();
  CCONVNET_LAUNCH(copies, 1, kLanes, nullptr, x.at<const uint4>(), nowhere, y.at<uint4>());
  return y.host();
}

// ---- fragments --------------------------------------------------------------------------------------------

constexpr int kMatrixRows = 64;

struct alignas(16) MatrixShared {
  uint4 row[kMatrixRows];
};

template <bool TRANSPOSED>
__global__ void fragments(const uint4* x, const uint32_t* rows, uint32_t* y) {
  MatrixShared& shared = shared_memory<MatrixShared>();
  const int t = threadIdx.x;
  for (int i = t; i < kMatrixRows; i += kLanes) shared.row[i] = x[i];
  __syncthreads();
  for (int round = 0; round < 8; ++round) {
    const uint4* const row = &shared.row[rows[round * kLanes + t]];
    const ptx::Matrices m = TRANSPOSED ? ptx::load_matrices_transposed(row) : ptx::load_matrices(row);
    for (int i = 0; i < 4; ++i) y[(round * 4 + i) * kLanes + t] = m.part[i];
  }
}

template <bool TRANSPOSED>
Words loaded_matrices() {
  Draw draw(6);
  const DeviceWords x(draw.words(kMatrixRows * 4));
  Words rows(8 * kLanes);
  for (uint32_t& row : rows) row = static_cast<uint32_t>(draw.integer(0, kMatrixRows - 1));
  const DeviceWords drawn(rows), y(8 * 4 * kLanes);
  CCONVNET_LAUNCH(fragments<TRANSPOSED>, 1, kLanes, nullptr, x.at<const uint4>(), drawn.at(), y.at());
  return y.host();
}

}  // namespace
