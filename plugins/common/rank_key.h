// Maps a score to an unsigned key that orders as the selection rule does: larger key, better score.
#pragma once

#include <cstdint>
#include <cstring>

#if defined(__CUDACC__)
#define LUVC_HOST_DEVICE __host__ __device__
#else
#define LUVC_HOST_DEVICE
#endif

namespace luvc {

// NaN takes the key of -infinity and -0 that of +0, so keys are equal exactly when the rule calls two scores equal.
LUVC_HOST_DEVICE inline uint32_t rank_key(float score) {
    constexpr uint32_t kNegativeInfinity = 0xff800000u;
    constexpr uint32_t kSign = 0x80000000u;
    uint32_t bits;
    memcpy(&bits, &score, sizeof(bits));
    if (score != score) bits = kNegativeInfinity;
    if (bits == kSign) bits = 0;
    return (bits & kSign) != 0 ? ~bits : bits | kSign;
}

}  // namespace luvc
