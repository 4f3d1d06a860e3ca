#include "cuda/merge_axis.cuh"

#include "common/orthogonal_merge.h"
#include "common/padding.h"
#include "common/rank_key.h"
#include "cuda/block_top_k.cuh"
#include "cuda/number.cuh"

namespace luvc::cuda {
namespace {

constexpr int kWarp = 32;
constexpr int kThreads = 256;
constexpr int kMoveThreads = 128;

// One warp a unit. Grid: x over the units of a line, y over lines, z over images.
template <typename T, int Count>
__global__ void __launch_bounds__(kThreads)
    neighbour_kernel(Axis axis, const T* values, int channels, float* square, float* dot) {
    const int place = static_cast<int>(blockIdx.x) * (kThreads / kWarp) + static_cast<int>(threadIdx.x) / kWarp;
    if (place >= axis.length) return;
    const int lane = static_cast<int>(threadIdx.x) % kWarp;
    const int64_t unit = axis.unit(blockIdx.z, blockIdx.y, place);
    const int64_t next = place + 1 < axis.length ? unit + axis.place_stride : unit;
    const auto* own_packs = reinterpret_cast<const Pack<T, Count>*>(values + unit * channels);
    const auto* next_packs = reinterpret_cast<const Pack<T, Count>*>(values + next * channels);
    float own_square = 0;
    float product = 0;
    for (int i = lane; i < channels / Count; i += kWarp) {
        const Pack<T, Count> own_pack = own_packs[i];
        const Pack<T, Count> next_pack = next_packs[i];
        for (int j = 0; j < Count; ++j) {
            const float value = to_float(own_pack.item[j]);
            own_square += value * value;
            product += value * to_float(next_pack.item[j]);
        }
    }
    own_square = warp_sum(own_square);
    product = warp_sum(product);
    if (lane != 0) return;
    square[unit] = own_square;
    dot[unit] = product;
}

// Cosines of one line from its squared norms and products; `sizes` is null where no unit is padding.
struct LineCosines {
    const float* square;
    const float* dot;
    const float* sizes;
    int64_t first;
    int64_t stride;
    int length;

    __device__ float at(int place) const {
        const int64_t unit = first + place * stride;
        const float own = fmaxf(sqrtf(square[unit]), kMinNorm);
        const float next = fmaxf(sqrtf(square[unit + stride]), kMinNorm);
        const float cosine = dot[unit] / (own * next);
        return sizes == nullptr ? cosine
                                : beside_padding(cosine, sizes[unit], sizes[unit + stride], place, length - 1);
    }
    __device__ bool has_right(int odd) const { return 2 * odd + 2 < length; }
    __device__ uint32_t left_key(int odd) const { return rank_key(at(2 * odd)); }
    __device__ uint32_t right_key(int odd) const { return has_right(odd) ? rank_key(at(2 * odd + 1)) : 0; }
    __device__ uint32_t best_key(int odd) const { return max(left_key(odd), right_key(odd)); }
    __device__ bool prefers_right(int odd) const { return right_key(odd) > left_key(odd); }
};

// One block a line. Grid: x over lines, y over images.
__global__ void __launch_bounds__(kThreads)
    decide_kernel(Axis from, Axis to, const float* square, const float* dot, const float* sizes, int32_t* target,
        int32_t* kept) {
    using TopK = BlockTopK<kThreads>;
    __shared__ typename TopK::Storage storage;
    const int64_t image = blockIdx.y;
    const int64_t line = blockIdx.x;
    const auto length = static_cast<int>(from.length);
    const auto removed = static_cast<int>(from.length - to.length);
    const LineCosines cosines{square, dot, sizes, from.unit(image, line, 0), from.place_stride, length};
    const auto key_at = [cosines](int odd) { return cosines.best_key(odd); };
    const auto stay = [=](int place, int merged_before) {
        target[from.unit(image, line, place)] = place - merged_before;
        kept[to.unit(image, line, place - merged_before)] = place;
    };
    TopK top_k(storage);
    const Cut cut = top_k.find(key_at, length / 2, removed);
    top_k.visit(key_at, length / 2, cut, [=](int odd, bool joins, int merged_before) {
        stay(2 * odd, merged_before);
        if (!joins) {
            stay(2 * odd + 1, merged_before);
        } else {
            const int even = cosines.prefers_right(odd) ? 2 * odd + 1 : 2 * odd;
            target[from.unit(image, line, 2 * odd + 1)] = even - merged_before;
        }
    });
    if (threadIdx.x == 0 && length % 2 != 0) stay(length - 1, removed);
}

// The units that become one: at most three neighbours of a line.
struct Members {
    int64_t first;
    int64_t stride;
    int count;
    float mass;

    __device__ int64_t unit(int member) const { return first + member * stride; }
};

__device__ inline Members members_of(
    const Axis& from, int64_t image, int64_t line, int merged, int place, const int32_t* target, const float* sizes) {
    const auto joins = [&](int candidate) {
        return candidate >= 0 && candidate < from.length && target[from.unit(image, line, candidate)] == merged;
    };
    const int left = joins(place - 1) ? 1 : 0;
    const int right = joins(place + 1) ? 1 : 0;
    Members members{from.unit(image, line, place - left), from.place_stride, left + 1 + right, 0.0f};
    for (int member = 0; member < members.count; ++member) members.mass += sizes[members.unit(member)];
    return members;
}

template <typename T, int Count>
__device__ void average(const Members& members, const T* values, const float* sizes, T* merged, int width) {
    auto* merged_packs = reinterpret_cast<Pack<T, Count>*>(merged);
    for (int i = static_cast<int>(threadIdx.x); i < width / Count; i += kMoveThreads) {
        float sum[Count] = {};
        for (int member = 0; member < members.count; ++member) {
            const int64_t unit = members.unit(member);
            const float size = sizes[unit];
            const Pack<T, Count> pack = reinterpret_cast<const Pack<T, Count>*>(values + unit * width)[i];
            for (int j = 0; j < Count; ++j) sum[j] += to_float(pack.item[j]) * size;
        }
        Pack<T, Count> result;
        for (int j = 0; j < Count; ++j) result.item[j] = from_float<T>(sum[j] / members.mass);
        merged_packs[i] = result;
    }
}

// One block a merged unit. Grid: x over the places of a merged line, y over lines, z over images.
template <typename T, int Count>
__global__ void __launch_bounds__(kMoveThreads) move_kernel(Axis from, Axis to, ConstUnits in, Units out, int channels,
    int position_planes, const int32_t* target, const int32_t* kept) {
    const auto merged = static_cast<int>(blockIdx.x);
    const int64_t unit = to.unit(blockIdx.z, blockIdx.y, merged);
    const Members members = members_of(from, blockIdx.z, blockIdx.y, merged, kept[unit], target, in.sizes);
    average<T, Count>(
        members, static_cast<const T*>(in.values), in.sizes, static_cast<T*>(out.values) + unit * channels, channels);
    average<float, 1>(members, in.positions, in.sizes, out.positions + unit * position_planes, position_planes);
    if (threadIdx.x == 0) out.sizes[unit] = members.mass;
}

template <typename T, int Count>
void enqueue(Chain& chain, const UnitShape& shape, const Axis& from, const Axis& to, const ConstUnits& in,
    const Units& out, const AxisScratch& scratch) {
    const auto lines = static_cast<unsigned>(from.lines);
    const auto images = static_cast<unsigned>(from.batch);
    const dim3 units(blocks_for(from.length, kThreads / kWarp), lines, images);
    chain.launch(neighbour_kernel<T, Count>, units, kThreads, from, static_cast<const T*>(in.values), shape.channels,
        scratch.square, scratch.dot);
    chain.launch(decide_kernel, dim3(lines, images), kThreads, from, to, scratch.square, scratch.dot,
        shape.padded ? in.sizes : nullptr, scratch.target, scratch.kept);
    chain.launch(move_kernel<T, Count>, dim3(static_cast<unsigned>(to.length), lines, images), kMoveThreads, from, to,
        in, out, shape.channels, shape.position_planes, scratch.target, scratch.kept);
}

}  // namespace

void merge_axis(Chain& chain, const UnitShape& shape, const Axis& from, const Axis& to, const ConstUnits& in,
    const Units& out, const AxisScratch& scratch) noexcept {
    with_float_type(shape.dtype, [&](auto zero) {
        using T = decltype(zero);
        constexpr int kWide = kWideBytes / static_cast<int>(sizeof(T));
        const bool wide =
            shape.channels % kWide == 0 && aligned(in.values, kWideBytes) && aligned(out.values, kWideBytes);
        (wide ? enqueue<T, kWide> : enqueue<T, 1>)(chain, shape, from, to, in, out, scratch);
    });
}

}  // namespace luvc::cuda
