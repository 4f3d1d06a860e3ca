#pragma once

#include <cstddef>

#include "luvc/orthogonal_merge.h"

namespace luvc::host {

size_t orthogonal_merge_workspace(const luvc_orthogonal_merge_shape& shape) noexcept;

}  // namespace luvc::host
