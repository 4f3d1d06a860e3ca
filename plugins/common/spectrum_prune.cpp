#include "common/spectrum_prune.h"

#include <cmath>

#include "common/dtype.h"
#include "common/extent.h"

namespace luvc {

luvc_status check_shape(const luvc_spectrum_prune_shape& shape) noexcept {
    if (!within(shape.groups, 0, kMaxGridYZ) || !within(shape.tokens, 0, kMaxTokens)
        || !within(shape.channels, 1, kMaxChannels)) {
        return LUVC_INVALID_SHAPE;
    }
    if (!within(shape.frequencies, shape.tokens > 0 ? 1 : 0, shape.tokens)) return LUVC_INVALID_SHAPE;
    if (!within(shape.keep, 0, shape.tokens)) return LUVC_INVALID_KEEP;
    if (!is_float(shape.dtype) || !is_float(shape.weight_dtype) || !is_index(shape.index_dtype)) {
        return LUVC_INVALID_DTYPE;
    }
    if (!within(shape.score, LUVC_SCORE_LOW, LUVC_SCORE_RATIO)) return LUVC_INVALID_SCORE;
    if (!std::isfinite(shape.epsilon) || shape.epsilon < 0) return LUVC_INVALID_EPSILON;
    constexpr int64_t kMaxElements = INT64_MAX / 64;  // bytes of every array, and their sum, stay below 2^63
    const bool addressable = product_within({shape.tokens, shape.channels}, kMaxInt32)
                             && product_within({shape.groups, shape.tokens}, kMaxInt32)
                             && product_within({shape.tokens, shape.frequencies}, kMaxElements)
                             && product_within({shape.groups, shape.tokens, shape.channels}, kMaxElements);
    return addressable ? LUVC_OK : LUVC_INVALID_SHAPE;
}

luvc_status check_tensors(const luvc_spectrum_prune_shape& shape, const luvc_spectrum_prune_tensors& tensors) noexcept {
    if (!within(tensors.payload_count, 0, LUVC_MAX_PAYLOADS)) return LUVC_INVALID_PAYLOAD;
    if (tensors.payload_count > 0 && tensors.payloads == nullptr) return LUVC_NULL_POINTER;
    const bool gathers = shape.groups > 0 && shape.keep > 0;
    for (int32_t i = 0; i < tensors.payload_count; ++i) {
        const luvc_payload& payload = tensors.payloads[i];
        if (!within(payload.planes, 1, kMaxPlanes) || !within(payload.row_bytes, 1, kMaxInt32)
            || !product_within({shape.tokens, payload.row_bytes}, kMaxInt32)) {
            return LUVC_INVALID_PAYLOAD;
        }
        if (gathers && (payload.source == nullptr || payload.target == nullptr)) return LUVC_NULL_POINTER;
    }
    if (gathers && tensors.indices == nullptr) return LUVC_NULL_POINTER;
    if (gathers && tensors.kept_values != nullptr && tensors.values == nullptr) return LUVC_NULL_POINTER;
    if (needs_scores(shape, tensors)
        && (tensors.values == nullptr || tensors.norm_weight == nullptr || tensors.basis == nullptr)) {
        return LUVC_NULL_POINTER;
    }
    return LUVC_OK;
}

bool needs_scores(const luvc_spectrum_prune_shape& shape, const luvc_spectrum_prune_tensors& tensors) noexcept {
    if (shape.groups == 0 || shape.tokens == 0) return false;
    return tensors.scores != nullptr || (shape.keep > 0 && shape.keep < shape.tokens);
}

}  // namespace luvc
