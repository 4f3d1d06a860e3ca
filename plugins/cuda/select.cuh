#pragma once

#include "cuda/launch.h"

namespace luvc::cuda {

// Enqueues the selection of `keep` > 0 tokens of every group; `scores` may be null when all are kept.
void select_top_k(Chain& chain, const float* scores, int64_t groups, int64_t tokens, int64_t keep,
    luvc_dtype index_dtype, void* indices) noexcept;

}  // namespace luvc::cuda
