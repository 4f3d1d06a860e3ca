// The score of SpectrumPrune in four launches: row norms, F^T Z, squared norms of the filtered rows, their sum.
#pragma once

#include "common/arena.h"
#include "cuda/launch.h"
#include "luvc/spectrum_prune.h"

namespace luvc::cuda {

struct SpectrumWorkspace {
    float* scores;        // [groups, tokens]
    float* inverse_rms;   // [groups, tokens]
    float* total;         // [groups, tokens], ||Z||^2
    float* coefficients;  // [groups, frequencies, channels], F^T Z
    float* partial;       // [groups, channel tiles, tokens], squared norms over one tile of channels

    SpectrumWorkspace(Arena& arena, const luvc_spectrum_prune_shape& shape) noexcept;
};

// Enqueues the computation of `scores` [groups, tokens].
void spectrum_scores(Chain& chain, const luvc_spectrum_prune_shape& shape, const luvc_spectrum_prune_tensors& tensors,
    const SpectrumWorkspace& work, float* scores) noexcept;

}  // namespace luvc::cuda
