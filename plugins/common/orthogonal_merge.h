// Argument checks of OrthogonalMerge, shared by host, CUDA and the TensorRT plugin.
#pragma once

#include "luvc/orthogonal_merge.h"

namespace luvc {

constexpr float kMinNorm = 1e-12f;  // torch.nn.functional.normalize's epsilon

luvc_status check_shape(const luvc_orthogonal_merge_shape& shape) noexcept;

// `shape` has passed check_shape.
luvc_status check_tensors(
    const luvc_orthogonal_merge_shape& shape, const luvc_orthogonal_merge_tensors& tensors) noexcept;

}  // namespace luvc
