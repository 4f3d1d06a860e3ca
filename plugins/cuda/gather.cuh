#pragma once

#include "cuda/launch.h"
#include "luvc/spectrum_prune.h"

namespace luvc::cuda {

// Enqueues one kernel that moves the rows named by `indices` of all payloads. 1 <= count <= LUVC_MAX_PAYLOADS + 1.
void gather(Chain& chain, const luvc_spectrum_prune_shape& shape, const luvc_payload* payloads, int count,
    const void* indices) noexcept;

}  // namespace luvc::cuda
