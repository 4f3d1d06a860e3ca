// __half and the two conversions plugins/cuda uses.
#pragma once

#include "host/number.h"

struct __half {
    uint16_t bits;
};

inline float __half2float(__half value) {
    return luvc::host::to_float(luvc::host::Half{value.bits});
}

// To nearest even; every NaN becomes 0x7fff, as CUDA's documentation of __float2half_rn says.
inline __half __float2half_rn(float value) {
    if (value != value) return {0x7fff};
    return {luvc::host::from_float<luvc::host::Half>(value).bits};
}
