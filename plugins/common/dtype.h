// Which element types a tensor may have, and how wide they are.
#pragma once

#include <cstdint>

#include "luvc/abi.h"

namespace luvc {

constexpr bool is_float(luvc_dtype dtype) noexcept {
    return dtype == LUVC_FLOAT32 || dtype == LUVC_FLOAT16 || dtype == LUVC_BFLOAT16;
}

constexpr bool is_index(luvc_dtype dtype) noexcept {
    return dtype == LUVC_INT32 || dtype == LUVC_INT64;
}

constexpr int64_t bytes_of(luvc_dtype dtype) noexcept {
    switch (dtype) {
        case LUVC_FLOAT16:
        case LUVC_BFLOAT16: return 2;
        case LUVC_INT64: return 8;
        default: return 4;
    }
}

}  // namespace luvc
