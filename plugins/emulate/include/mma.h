// Warp matrix products of 16 x 16 x 8 TF32 numbers, the one shape plugins/cuda uses.
//
// Which element lies in which lane is unspecified in CUDA; here a lane holds consecutive ones. Operands lose the bits a
// TF32 number lacks, products and their sum are exact, and the sum is cut off to fp32: tensor cores truncate too (Fasi
// et al., "Numerical behavior of NVIDIA tensor cores", PeerJ Computer Science 7:e330, 2021), at a place of their own.
#pragma once

#include <cstring>

#include "emulate/machine.h"

namespace nvcuda::wmma {

struct matrix_a {};
struct matrix_b {};
struct accumulator {};
struct row_major {};
struct col_major {};
enum layout_t { mem_row_major };
namespace precision {
struct tf32 {};
}  // namespace precision

template <typename Use, int M, int N, int K, typename T, typename Layout = void>
struct fragment;

template <typename Layout>
struct fragment<matrix_a, 16, 16, 8, precision::tf32, Layout> {
    static constexpr int num_elements = 4;
    float x[num_elements];
};

template <>
struct fragment<matrix_b, 16, 16, 8, precision::tf32, row_major> {
    static constexpr int num_elements = 4;
    float x[num_elements];
};

template <>
struct fragment<accumulator, 16, 16, 8, float> {
    static constexpr int num_elements = 8;
    float x[num_elements];
};

template <typename Layout>
using Left = fragment<matrix_a, 16, 16, 8, precision::tf32, Layout>;
using Right = fragment<matrix_b, 16, 16, 8, precision::tf32, row_major>;
using Sum = fragment<accumulator, 16, 16, 8, float>;

inline unsigned first_element(int per_lane) {
    return luvc::emulate::places.thread.x % luvc::emulate::kWarp * static_cast<unsigned>(per_lane);
}

// Round to nearest, ties away from zero (PTX cvt.rna.tf32.f32).
inline float __float_to_tf32(float value) {
    uint32_t bits;
    std::memcpy(&bits, &value, sizeof(bits));
    if ((bits & 0x7f800000u) != 0x7f800000u) bits = (bits + 0x1000u) & 0xffffe000u;
    std::memcpy(&value, &bits, sizeof(value));
    return value;
}

inline void fill_fragment(Sum& sum, float value) {
    for (float& element : sum.x) element = value;
}

template <typename Layout>
void load_matrix_sync(Left<Layout>& into, const float* from, unsigned stride, const char* file = __builtin_FILE(),
    int line = __builtin_LINE()) {
    luvc::emulate::warp_address("load_matrix_sync", from, stride, {file, line});
    for (int i = 0; i < into.num_elements; ++i) {
        const unsigned element = first_element(into.num_elements) + static_cast<unsigned>(i);
        const unsigned row = element / 8;
        const unsigned depth = element % 8;
        into.x[i] = from[std::is_same_v<Layout, row_major> ? row * stride + depth : depth * stride + row];
    }
}

inline void load_matrix_sync(Right& into, const float* from, unsigned stride, const char* file = __builtin_FILE(),
    int line = __builtin_LINE()) {
    luvc::emulate::warp_address("load_matrix_sync", from, stride, {file, line});
    for (int i = 0; i < into.num_elements; ++i) {
        const unsigned element = first_element(into.num_elements) + static_cast<unsigned>(i);
        into.x[i] = from[element / 16 * stride + element % 16];
    }
}

inline void store_matrix_sync(float* into, const Sum& sum, unsigned stride, layout_t,
    const char* file = __builtin_FILE(), int line = __builtin_LINE()) {
    luvc::emulate::warp_address("store_matrix_sync", into, stride, {file, line});
    for (int i = 0; i < sum.num_elements; ++i) {
        const unsigned element = first_element(sum.num_elements) + static_cast<unsigned>(i);
        into[element / 16 * stride + element % 16] = sum.x[i];
    }
}

template <typename Layout>
void mma_sync(Sum& result, const Left<Layout>& left, const Right& right, const Sum& sum,
    const char* file = __builtin_FILE(), int line = __builtin_LINE()) {
    luvc::emulate::warp_product(result.x, left.x, right.x, sum.x, {file, line});
}

}  // namespace nvcuda::wmma
