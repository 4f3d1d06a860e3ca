// Argument checks of luvc_select_top_k, shared by host and CUDA.
#pragma once

#include "luvc/abi.h"

namespace luvc {

luvc_status check_select(const float* scores, int64_t groups, int64_t tokens, int64_t keep, luvc_dtype index_dtype,
    const void* indices) noexcept;

}  // namespace luvc
