// A 64 x 64 product tile on tensor cores at fp32 accuracy: every operand is split into two TF32 numbers, and of the
// four products only low x low, below fp32's last bit, is left out (3xTF32).
#pragma once

#include <mma.h>

#include <type_traits>

namespace luvc::cuda {

namespace wmma = nvcuda::wmma;

constexpr int kTile = 64;    // rows and columns of an output tile
constexpr int kDepth = 32;   // summed indices held in shared memory at a time
constexpr int kTilePad = 4;  // floats, keeps columns of shared memory in different banks
constexpr int kTileStride = kTile + kTilePad;
constexpr int kDepthStride = kDepth + kTilePad;
constexpr int kTileThreads = 256;

class TileProduct {
    static constexpr int kStep = 8;  // depth of one instruction
    static constexpr int kSide = 16;
    static constexpr int kColumns = 2;  // fragments of a warp, side by side: a warp owns 16 x 32 of the tile

    template <typename Layout>
    using Left = wmma::fragment<wmma::matrix_a, kSide, kSide, kStep, wmma::precision::tf32, Layout>;
    using Right = wmma::fragment<wmma::matrix_b, kSide, kSide, kStep, wmma::precision::tf32, wmma::row_major>;
    using Sum = wmma::fragment<wmma::accumulator, kSide, kSide, kStep, float>;

public:
    __device__ TileProduct()
        : row_(static_cast<int>(threadIdx.x) / 64 * kSide),
          column_(static_cast<int>(threadIdx.x) / 32 % 2 * kSide * kColumns) {
        for (Sum& sum : sums_) wmma::fill_fragment(sum, 0.0f);
    }

    // Adds L R. `left` is [kTile][kDepthStride] (row_major) or [kDepth][kTileStride] (col_major), `right` is
    // [kDepth][kTileStride]; both in shared memory, 32-byte aligned.
    template <typename Layout>
    __device__ void add(const float* left, const float* right) {
        constexpr bool kRowMajor = std::is_same_v<Layout, wmma::row_major>;
        constexpr int kLeftStride = kRowMajor ? kDepthStride : kTileStride;
        for (int k = 0; k < kDepth; k += kStep) {
            Left<Layout> whole, high, low;
            wmma::load_matrix_sync(
                whole, left + (kRowMajor ? row_ * kLeftStride + k : k * kLeftStride + row_), kLeftStride);
            split(whole, high, low);
            for (int i = 0; i < kColumns; ++i) {
                Right right_whole, right_high, right_low;
                wmma::load_matrix_sync(right_whole, right + k * kTileStride + column_ + i * kSide, kTileStride);
                split(right_whole, right_high, right_low);
                wmma::mma_sync(sums_[i], low, right_high, sums_[i]);
                wmma::mma_sync(sums_[i], high, right_low, sums_[i]);
                wmma::mma_sync(sums_[i], high, right_high, sums_[i]);
            }
        }
    }

    // Writes the tile to shared memory [kTile][kTileStride].
    __device__ void store(float* tile) const {
        for (int i = 0; i < kColumns; ++i) {
            wmma::store_matrix_sync(
                tile + row_ * kTileStride + column_ + i * kSide, sums_[i], kTileStride, wmma::mem_row_major);
        }
    }

private:
    template <typename Fragment>
    __device__ static void split(const Fragment& whole, Fragment& high, Fragment& low) {
        for (int i = 0; i < whole.num_elements; ++i) {
            high.x[i] = wmma::__float_to_tf32(whole.x[i]);
            low.x[i] = wmma::__float_to_tf32(whole.x[i] - high.x[i]);
        }
    }

    int row_;
    int column_;
    Sum sums_[kColumns];
};

}  // namespace luvc::cuda
