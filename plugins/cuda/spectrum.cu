#include "cuda/spectrum.cuh"

#include "common/dtype.h"
#include "cuda/number.cuh"
#include "cuda/split_tf32.cuh"

namespace luvc::cuda {
namespace {

constexpr int kWarp = 32;
constexpr int kRowThreads = 256;
// On a multiprocessor at least: without it the compiler unrolls into 128 registers for sm_100, and two blocks fit.
constexpr int kFilterBlocks = 3;

// V and what turns it into Z, for one group.
template <typename T>
struct Normed {
    const T* values;
    const float* inverse_rms;
    AnyFloats weight;
    int tokens;
    int channels;

    __device__ Normed for_group(int64_t group) const {
        Normed shifted = *this;
        shifted.values += group * tokens * channels;
        shifted.inverse_rms += group * tokens;
        return shifted;
    }
    // Z, and zero outside it.
    __device__ float at(int token, int channel) const {
        if (token >= tokens || channel >= channels) return 0.0f;
        const float value = to_float(values[int64_t{token} * channels + channel]);
        return value * inverse_rms[token] * weight[channel];
    }
};

// One warp a token.
template <typename T, int Count>
__global__ void __launch_bounds__(kRowThreads) row_norm_kernel(
    const T* values, AnyFloats weight, int rows, int channels, float epsilon, float* inverse_rms, float* total) {
    const int row = static_cast<int>(blockIdx.x) * (kRowThreads / kWarp) + static_cast<int>(threadIdx.x) / kWarp;
    if (row >= rows) return;
    const int lane = static_cast<int>(threadIdx.x) % kWarp;
    const auto* packs = reinterpret_cast<const Pack<T, Count>*>(values + int64_t{row} * channels);
    float square = 0;
    float weighted_square = 0;
    for (int i = lane; i < channels / Count; i += kWarp) {
        const Pack<T, Count> pack = packs[i];
        for (int j = 0; j < Count; ++j) {
            const float value = to_float(pack.item[j]);
            const float weighted = value * weight[i * Count + j];
            square += value * value;
            weighted_square += weighted * weighted;
        }
    }
    square = warp_sum(square);
    weighted_square = warp_sum(weighted_square);
    if (lane != 0) return;
    const float scale = 1.0f / sqrtf(square / static_cast<float>(channels) + epsilon);
    inverse_rms[row] = scale;
    total[row] = weighted_square * scale * scale;
}

// coefficients[m, d] = sum over n of F[n, m] Z[n, d]. Grid: x over channel tiles, y over frequency tiles, z over
// groups.
template <typename T>
__global__ void __launch_bounds__(kTileThreads)
    project_kernel(Normed<T> all, const float* basis, int frequencies, float* coefficients) {
    constexpr int kOperand = kDepth * kTileStride;
    static_assert(2 * kOperand >= kTile * kTileStride, "the result lies where the operands were");
    alignas(32) __shared__ float memory[2 * kOperand];
    float* const left = memory;
    float* const right = memory + kOperand;
    float* const tile = memory;
    const Normed<T> normed = all.for_group(blockIdx.z);
    const int first_channel = static_cast<int>(blockIdx.x) * kTile;
    const int first_frequency = static_cast<int>(blockIdx.y) * kTile;
    TileProduct product;
    for (int first_token = 0; first_token < normed.tokens; first_token += kDepth) {
        for (int i = static_cast<int>(threadIdx.x); i < kDepth * kTile; i += kTileThreads) {
            const int token = first_token + i / kTile;
            const int place = i / kTile * kTileStride + i % kTile;
            const int frequency = first_frequency + i % kTile;
            const bool inside = token < normed.tokens && frequency < frequencies;
            left[place] = inside ? basis[int64_t{token} * frequencies + frequency] : 0.0f;
            right[place] = normed.at(token, first_channel + i % kTile);
        }
        __syncthreads();
        product.template add<wmma::col_major>(left, right);
        __syncthreads();
    }
    product.store(tile);
    __syncthreads();
    for (int i = static_cast<int>(threadIdx.x); i < kTile * kTile; i += kTileThreads) {
        const int frequency = first_frequency + i / kTile;
        const int channel = first_channel + i % kTile;
        if (frequency >= frequencies || channel >= normed.channels) continue;
        const int64_t row = int64_t{blockIdx.z} * frequencies + frequency;
        coefficients[row * normed.channels + channel] = tile[i / kTile * kTileStride + i % kTile];
    }
}

// partial[tile, n] = sum over the tile's channels of Y[n, d]^2, or of (Z - Y)^2 for `residual`, with Y = F
// coefficients. Grid: x over channel tiles, y over token tiles, z over groups.
template <typename T>
__global__ void __launch_bounds__(kTileThreads, kFilterBlocks) filter_kernel(
    Normed<T> all, const float* basis, int frequencies, const float* coefficients, bool residual, float* partial) {
    constexpr int kThreadsPerRow = kTileThreads / kTile;
    constexpr int kLeft = kTile * kDepthStride;
    constexpr int kRight = kDepth * kTileStride;
    static_assert(kLeft + kRight >= kTile * kTileStride, "the result lies where the operands were");
    alignas(32) __shared__ float memory[kLeft + kRight];
    float* const left = memory;
    float* const right = memory + kLeft;
    float* const tile = memory;
    const Normed<T> normed = all.for_group(blockIdx.z);
    const float* group_coefficients = coefficients + int64_t{blockIdx.z} * frequencies * normed.channels;
    const int first_channel = static_cast<int>(blockIdx.x) * kTile;
    const int first_token = static_cast<int>(blockIdx.y) * kTile;
    TileProduct product;
    for (int first = 0; first < frequencies; first += kDepth) {
        for (int i = static_cast<int>(threadIdx.x); i < kTile * kDepth; i += kTileThreads) {
            const int token = first_token + i / kDepth;
            const int left_frequency = first + i % kDepth;
            const bool left_inside = token < normed.tokens && left_frequency < frequencies;
            left[i / kDepth * kDepthStride + i % kDepth] =
                left_inside ? basis[int64_t{token} * frequencies + left_frequency] : 0.0f;
            const int frequency = first + i / kTile;
            const int channel = first_channel + i % kTile;
            const bool inside = frequency < frequencies && channel < normed.channels;
            right[i / kTile * kTileStride + i % kTile] =
                inside ? group_coefficients[int64_t{frequency} * normed.channels + channel] : 0.0f;
        }
        __syncthreads();
        product.template add<wmma::row_major>(left, right);
        __syncthreads();
    }
    product.store(tile);
    __syncthreads();
    const int row = static_cast<int>(threadIdx.x) / kThreadsPerRow;
    const int part = static_cast<int>(threadIdx.x) % kThreadsPerRow;
    const int token = first_token + row;
    float square = 0;
    for (int column = part; column < kTile; column += kThreadsPerRow) {
        const float filtered = tile[row * kTileStride + column];
        const float value = residual ? normed.at(token, first_channel + column) - filtered : filtered;
        square += value * value;
    }
    for (int offset = kThreadsPerRow / 2; offset > 0; offset /= 2) {
        square += __shfl_xor_sync(0xffffffffu, square, offset);
    }
    if (part != 0 || token >= normed.tokens) return;
    partial[(int64_t{blockIdx.z} * gridDim.x + blockIdx.x) * normed.tokens + token] = square;
}

// Grid: x over tokens, y over groups. Sums the tiles in a fixed order, so scores repeat bit for bit.
__global__ void __launch_bounds__(kRowThreads)
    finish_kernel(const float* partial, const float* total, const int64_t* places, int tiles, int tokens, bool ratio,
        float* scores) {
    const int token = static_cast<int>(blockIdx.x) * kRowThreads + static_cast<int>(threadIdx.x);
    if (token >= tokens) return;
    const float* column = partial + int64_t{blockIdx.y} * tiles * tokens + token;
    float square = 0;
    for (int tile = 0; tile < tiles; ++tile) square += column[int64_t{tile} * tokens];
    const int64_t row = int64_t{blockIdx.y} * tokens + token;
    const bool padding = places != nullptr && places[row] < 0;
    scores[row] = padding ? -INFINITY : ratio ? sqrtf(square) / sqrtf(total[row]) : sqrtf(square);
}

template <typename T>
void enqueue(Chain& chain, const luvc_spectrum_prune_shape& shape, const luvc_spectrum_prune_tensors& tensors,
    const SpectrumWorkspace& work, float* scores) {
    const auto* values = static_cast<const T*>(tensors.values);
    const AnyFloats weight{tensors.norm_weight, shape.weight_dtype};
    const int64_t rows = shape.groups * shape.tokens;
    const dim3 row_grid(blocks_for(rows, kRowThreads / kWarp));
    constexpr int kWide = kWideBytes / static_cast<int>(sizeof(T));
    const bool wide = shape.channels % kWide == 0 && aligned(values, kWideBytes);
    chain.launch(wide ? row_norm_kernel<T, kWide> : row_norm_kernel<T, 1>, row_grid, kRowThreads, values, weight, rows,
        shape.channels, shape.epsilon, work.inverse_rms, work.total);

    const Normed<T> normed{
        values, work.inverse_rms, weight, static_cast<int>(shape.tokens), static_cast<int>(shape.channels)};
    const auto groups = static_cast<unsigned>(shape.groups);
    const unsigned tiles = blocks_for(shape.channels, kTile);
    chain.launch(project_kernel<T>, dim3(tiles, blocks_for(shape.frequencies, kTile), groups), kTileThreads, normed,
        tensors.basis, shape.frequencies, work.coefficients);
    chain.launch(filter_kernel<T>, dim3(tiles, blocks_for(shape.tokens, kTile), groups), kTileThreads, normed,
        tensors.basis, shape.frequencies, work.coefficients, shape.score == LUVC_SCORE_RESIDUAL, work.partial);
    chain.launch(finish_kernel, dim3(blocks_for(shape.tokens, kRowThreads), groups), kRowThreads, work.partial,
        work.total, tensors.places, tiles, shape.tokens, shape.score == LUVC_SCORE_RATIO, scores);
}

}  // namespace

SpectrumWorkspace::SpectrumWorkspace(Arena& arena, const luvc_spectrum_prune_shape& shape) noexcept
    : scores(arena.take<float>(shape.groups * shape.tokens)),
      inverse_rms(arena.take<float>(shape.groups * shape.tokens)),
      total(arena.take<float>(shape.groups * shape.tokens)),
      coefficients(arena.take<float>(shape.groups * shape.frequencies * shape.channels)),
      partial(arena.take<float>(shape.groups * blocks_for(shape.channels, kTile) * shape.tokens)) {}

void spectrum_scores(Chain& chain, const luvc_spectrum_prune_shape& shape, const luvc_spectrum_prune_tensors& tensors,
    const SpectrumWorkspace& work, float* scores) noexcept {
    with_float_type(shape.dtype, [&](auto zero) { enqueue<decltype(zero)>(chain, shape, tensors, work, scores); });
}

}  // namespace luvc::cuda
