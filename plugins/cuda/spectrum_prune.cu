#include "common/spectrum_prune.h"

#include "common/dtype.h"
#include "cuda/gather.cuh"
#include "cuda/select.cuh"
#include "cuda/spectrum.cuh"
#include "cuda/workspace.h"

namespace luvc::cuda {

size_t spectrum_prune_workspace(const luvc_spectrum_prune_shape& shape) noexcept {
    Arena measure;
    SpectrumWorkspace(measure, shape);
    return measure.bytes();
}

}  // namespace luvc::cuda

extern "C" luvc_status luvc_spectrum_prune_cuda(const luvc_spectrum_prune_shape* shape,
    const luvc_spectrum_prune_tensors* tensors, void* workspace, size_t workspace_bytes, void* stream) noexcept {
    if (shape == nullptr || tensors == nullptr) return LUVC_NULL_POINTER;
    luvc_status status = luvc::check_shape(*shape);
    if (status == LUVC_OK) status = luvc::check_tensors(*shape, *tensors);
    if (status == LUVC_OK) {
        const size_t needed = luvc::cuda::spectrum_prune_workspace(*shape);
        status = luvc::check_workspace(workspace, workspace_bytes, needed);
    }
    if (status != LUVC_OK || shape->groups == 0 || shape->tokens == 0) return status;

    luvc::cuda::Chain chain(stream);
    luvc::Arena arena(workspace);
    const luvc::cuda::SpectrumWorkspace work(arena, *shape);
    float* scores = tensors->scores != nullptr ? tensors->scores : work.scores;
    if (luvc::needs_scores(*shape, *tensors)) {
        luvc::cuda::spectrum_scores(chain, *shape, *tensors, work, scores);
    }
    if (shape->keep == 0) return chain.status();
    luvc::cuda::select_top_k(
        chain, scores, shape->groups, shape->tokens, shape->keep, shape->index_dtype, tensors->indices);

    luvc_payload payloads[LUVC_MAX_PAYLOADS + 1];
    int count = 0;
    if (tensors->kept_values != nullptr) {
        const int64_t row_bytes = shape->channels * luvc::bytes_of(shape->dtype);
        payloads[count++] = {tensors->values, tensors->kept_values, 1, row_bytes};
    }
    for (int32_t i = 0; i < tensors->payload_count; ++i) payloads[count++] = tensors->payloads[i];
    if (count > 0) luvc::cuda::gather(chain, *shape, payloads, count, tensors->indices);
    return chain.status();
}
