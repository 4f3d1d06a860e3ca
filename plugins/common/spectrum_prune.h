// Argument checks of SpectrumPrune, shared by host, CUDA and the TensorRT plugin.
#pragma once

#include "luvc/spectrum_prune.h"

namespace luvc {

luvc_status check_shape(const luvc_spectrum_prune_shape& shape) noexcept;

// `shape` has passed check_shape.
luvc_status check_tensors(const luvc_spectrum_prune_shape& shape, const luvc_spectrum_prune_tensors& tensors) noexcept;

// Whether this call ranks tokens at all: keeping none or all of them needs no score.
bool needs_scores(const luvc_spectrum_prune_shape& shape, const luvc_spectrum_prune_tensors& tensors) noexcept;

}  // namespace luvc
