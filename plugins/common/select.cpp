#include "common/select.h"

#include "common/dtype.h"
#include "common/extent.h"

namespace luvc {

luvc_status check_select(const float* scores, int64_t groups, int64_t tokens, int64_t keep, luvc_dtype index_dtype,
    const void* indices) noexcept {
    if (!within(groups, 0, kMaxGridYZ) || !within(tokens, 0, kMaxTokens)) return LUVC_INVALID_SHAPE;
    if (!within(keep, 0, tokens)) return LUVC_INVALID_KEEP;
    if (!is_index(index_dtype)) return LUVC_INVALID_DTYPE;
    const bool empty = groups == 0 || keep == 0;
    if (!empty && (scores == nullptr || indices == nullptr)) return LUVC_NULL_POINTER;
    return LUVC_OK;
}

}  // namespace luvc
