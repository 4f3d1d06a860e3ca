// Element types on the device: conversions, packs for wide loads, and the choice of both at launch.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <cstdint>

#include "luvc/abi.h"

namespace luvc::cuda {

__device__ inline float to_float(float value) {
    return value;
}

__device__ inline float to_float(__half value) {
    return __half2float(value);
}

__device__ inline float to_float(__nv_bfloat16 value) {
    return __bfloat162float(value);
}

template <typename T>
__device__ T from_float(float value);

template <>
__device__ inline float from_float<float>(float value) {
    return value;
}

template <>
__device__ inline __half from_float<__half>(float value) {
    return __float2half_rn(value);
}

template <>
__device__ inline __nv_bfloat16 from_float<__nv_bfloat16>(float value) {
    return __float2bfloat16_rn(value);
}

constexpr int kWideBytes = 16;

template <typename T, int Count>
struct alignas(sizeof(T) * Count) Pack {
    T item[Count];
};

// A vector whose element type is known only at run time; the branch is uniform over a launch.
struct AnyFloats {
    const void* data;
    luvc_dtype dtype;

    __device__ float operator[](int64_t i) const {
        switch (dtype) {
            case LUVC_FLOAT16: return to_float(static_cast<const __half*>(data)[i]);
            case LUVC_BFLOAT16: return to_float(static_cast<const __nv_bfloat16*>(data)[i]);
            default: return static_cast<const float*>(data)[i];
        }
    }
};

// Calls `body` with a zero of the device type of `dtype`, which has passed is_float.
template <typename Body>
void with_float_type(luvc_dtype dtype, Body body) noexcept {
    switch (dtype) {
        case LUVC_FLOAT16: body(__half{}); break;
        case LUVC_BFLOAT16: body(__nv_bfloat16{}); break;
        default: body(float{}); break;
    }
}

inline bool aligned(const void* pointer, int64_t bytes) noexcept {
    return reinterpret_cast<uintptr_t>(pointer) % static_cast<uintptr_t>(bytes) == 0;
}

__device__ inline float warp_sum(float value) {
    for (int offset = 16; offset > 0; offset /= 2) value += __shfl_xor_sync(0xffffffffu, value, offset);
    return value;
}

}  // namespace luvc::cuda
