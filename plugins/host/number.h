// Element types of host memory: exact widening to float, rounding to nearest even on the way back.
#pragma once

#include <cstdint>
#include <cstring>

#include "luvc/abi.h"

namespace luvc::host {

inline uint32_t bits_of(float value) noexcept {
    uint32_t bits;
    std::memcpy(&bits, &value, sizeof(bits));
    return bits;
}

inline float float_of(uint32_t bits) noexcept {
    float value;
    std::memcpy(&value, &bits, sizeof(value));
    return value;
}

struct Half {
    uint16_t bits;
};

struct BFloat16 {
    uint16_t bits;
};

inline float to_float(float value) noexcept {
    return value;
}

inline float to_float(BFloat16 value) noexcept {
    return float_of(uint32_t{value.bits} << 16);
}

inline float to_float(Half value) noexcept {
    const uint32_t sign = uint32_t{value.bits & 0x8000u} << 16;
    const uint32_t exponent = value.bits >> 10 & 0x1fu;
    const uint32_t mantissa = value.bits & 0x3ffu;
    if (exponent == 0x1f) return float_of(sign | 0x7f800000u | mantissa << 13);
    if (exponent != 0) return float_of(sign | (exponent + 112) << 23 | mantissa << 13);
    const float subnormal = static_cast<float>(mantissa) * 0x1p-24f;
    return sign != 0 ? -subnormal : subnormal;
}

inline uint32_t round_shift(uint32_t value, uint32_t shift) noexcept {
    const uint32_t half = 1u << (shift - 1);
    const uint32_t odd = value >> shift & 1u;
    return (value + half - 1 + odd) >> shift;
}

template <typename T>
T from_float(float value) noexcept;

template <>
inline float from_float<float>(float value) noexcept {
    return value;
}

template <>
inline BFloat16 from_float<BFloat16>(float value) noexcept {
    const uint32_t bits = bits_of(value);
    if (value != value) return {static_cast<uint16_t>(bits >> 16 | 0x40u)};
    return {static_cast<uint16_t>(round_shift(bits, 16))};
}

template <>
inline Half from_float<Half>(float value) noexcept {
    const uint32_t bits = bits_of(value);
    const uint32_t sign = bits >> 16 & 0x8000u;
    const uint32_t magnitude = bits & 0x7fffffffu;
    constexpr uint32_t kInfinity = 0x7f800000u;
    constexpr uint32_t kSmallestNormal = 0x38800000u;  // 2^-14
    constexpr uint32_t kOverflow = 0x477ff000u;        // 65520, the first value that rounds to infinity
    uint32_t half;
    if (magnitude > kInfinity) {
        half = 0x7e00u;
    } else if (magnitude >= kOverflow) {
        half = 0x7c00u;
    } else if (magnitude >= kSmallestNormal) {
        half = round_shift(magnitude - (112u << 23), 13);
    } else {
        // Adding 0.5 puts the subnormal's last bit at the float's last bit, so the addition rounds it.
        half = bits_of(float_of(magnitude) + 0.5f) - bits_of(0.5f);
    }
    return {static_cast<uint16_t>(sign | half)};
}

// Calls `body` with a zero of the C++ type of `dtype`, which has passed is_float.
template <typename Body>
luvc_status with_float_type(luvc_dtype dtype, Body body) noexcept {
    switch (dtype) {
        case LUVC_FLOAT16: return body(Half{});
        case LUVC_BFLOAT16: return body(BFloat16{});
        default: return body(float{});
    }
}

}  // namespace luvc::host
