#include "host/select.h"

#include <algorithm>
#include <numeric>

#include "common/arena.h"
#include "common/extent.h"
#include "common/rank_key.h"
#include "common/select.h"

namespace luvc::host {

void select_top_k(const float* scores, int64_t count, int64_t keep, int32_t* order) noexcept {
    std::iota(order, order + count, 0);
    const auto better = [scores](int32_t left, int32_t right) {
        const uint32_t left_key = rank_key(scores[left]);
        const uint32_t right_key = rank_key(scores[right]);
        return left_key != right_key ? left_key > right_key : left < right;
    };
    if (keep < count) std::nth_element(order, order + keep, order + count, better);
    std::sort(order, order + keep);
}

}  // namespace luvc::host

extern "C" luvc_status luvc_select_top_k_host_workspace(int64_t tokens, size_t* bytes) noexcept {
    if (bytes == nullptr) return LUVC_NULL_POINTER;
    if (!luvc::within(tokens, 0, luvc::kMaxTokens)) return LUVC_INVALID_SHAPE;
    luvc::Arena measure;
    measure.take<int32_t>(tokens);
    *bytes = measure.bytes();
    return LUVC_OK;
}

extern "C" luvc_status luvc_select_top_k_host(const float* scores, int64_t groups, int64_t tokens, int64_t keep,
    luvc_dtype index_dtype, void* indices, void* workspace, size_t workspace_bytes) noexcept {
    luvc_status status = luvc::check_select(scores, groups, tokens, keep, index_dtype, indices);
    if (status != LUVC_OK || groups == 0 || keep == 0) return status;
    size_t needed = 0;
    status = luvc_select_top_k_host_workspace(tokens, &needed);
    if (status == LUVC_OK) status = luvc::check_workspace(workspace, workspace_bytes, needed);
    if (status != LUVC_OK) return status;
    luvc::Arena arena(workspace);
    int32_t* order = arena.take<int32_t>(tokens);
    for (int64_t group = 0; group < groups; ++group) {
        luvc::host::select_top_k(scores + group * tokens, tokens, keep, order);
        if (index_dtype == LUVC_INT32) {
            std::copy_n(order, keep, static_cast<int32_t*>(indices) + group * keep);
        } else {
            std::copy_n(order, keep, static_cast<int64_t*>(indices) + group * keep);
        }
    }
    return LUVC_OK;
}
