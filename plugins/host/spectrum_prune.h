#pragma once

#include <cstddef>

#include "luvc/spectrum_prune.h"

namespace luvc::host {

size_t spectrum_prune_workspace(const luvc_spectrum_prune_shape& shape) noexcept;

}  // namespace luvc::host
