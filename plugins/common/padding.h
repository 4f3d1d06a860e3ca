// How alike neighbours count where one of them or both show padding alone.
#pragma once

#include <cstdint>

#include "common/rank_key.h"

namespace luvc {

constexpr float kPaddingSize = 0.5f;  // units below are padding

LUVC_HOST_DEVICE inline float beside_padding(float cosine, float size, float next_size, int place, int pairs) {
    const bool first = size < kPaddingSize;
    const bool second = next_size < kPaddingSize;
    if (!first && !second) return cosine;
    const float share = static_cast<float>(place) / static_cast<float>(pairs);
    return first && second ? 4.0f - share : -(3.0f + share);
}

}  // namespace luvc
