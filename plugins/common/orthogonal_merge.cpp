#include "common/orthogonal_merge.h"

#include "common/dtype.h"
#include "common/extent.h"

namespace luvc {

luvc_status check_shape(const luvc_orthogonal_merge_shape& shape) noexcept {
    if (!within(shape.batch, 0, kMaxGridYZ) || !within(shape.height, 1, kMaxGridYZ)
        || !within(shape.width, 1, kMaxGridYZ) || !within(shape.channels, 1, kMaxChannels)
        || !within(shape.position_planes, 0, kMaxChannels)) {
        return LUVC_INVALID_SHAPE;
    }
    if (!within(shape.removed_columns, 0, shape.width / 2) || !within(shape.removed_rows, 0, shape.height / 2)) {
        return LUVC_INVALID_REMOVED;
    }
    if (!is_float(shape.dtype)) return LUVC_INVALID_DTYPE;
    if (!within(shape.padded, 0, 1)) return LUVC_INVALID_SHAPE;
    constexpr int64_t kMaxElements = INT64_MAX / 64;
    const bool addressable =
        product_within({shape.batch, shape.height, shape.width}, kMaxInt32)
        && product_within({shape.batch, shape.height, shape.width, shape.channels}, kMaxElements)
        && product_within({shape.batch, shape.height, shape.width, shape.position_planes}, kMaxElements);
    return addressable ? LUVC_OK : LUVC_INVALID_SHAPE;
}

luvc_status check_tensors(
    const luvc_orthogonal_merge_shape& shape, const luvc_orthogonal_merge_tensors& tensors) noexcept {
    if (shape.batch == 0) return LUVC_OK;
    if (tensors.values == nullptr || tensors.sizes == nullptr || tensors.merged_values == nullptr
        || tensors.merged_sizes == nullptr) {
        return LUVC_NULL_POINTER;
    }
    const bool positioned = tensors.positions != nullptr && tensors.merged_positions != nullptr;
    return shape.position_planes == 0 || positioned ? LUVC_OK : LUVC_NULL_POINTER;
}

}  // namespace luvc
