// The selection rule on the host, for anything that ranks by score.
#pragma once

#include <cstdint>

namespace luvc::host {

// Leaves the `keep` best of `scores[0..count)` in order[0..keep), ascending. `order` holds `count` entries.
void select_top_k(const float* scores, int64_t count, int64_t keep, int32_t* order) noexcept;

}  // namespace luvc::host
