#pragma once

#include <cstddef>

#include "luvc/orthogonal_merge.h"
#include "luvc/spectrum_prune.h"

namespace luvc::cuda {

size_t spectrum_prune_workspace(const luvc_spectrum_prune_shape& shape) noexcept;
size_t orthogonal_merge_workspace(const luvc_orthogonal_merge_shape& shape) noexcept;

}  // namespace luvc::cuda
