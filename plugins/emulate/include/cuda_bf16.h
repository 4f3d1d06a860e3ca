// __nv_bfloat16 and the two conversions plugins/cuda uses.
#pragma once

#include "host/number.h"

struct __nv_bfloat16 {
    uint16_t bits;
};

inline float __bfloat162float(__nv_bfloat16 value) {
    return luvc::host::to_float(luvc::host::BFloat16{value.bits});
}

// To nearest even; every NaN becomes 0x7fff, as CUDA's documentation of __float2bfloat16_rn says.
inline __nv_bfloat16 __float2bfloat16_rn(float value) {
    if (value != value) return {0x7fff};
    return {luvc::host::from_float<luvc::host::BFloat16>(value).bits};
}
