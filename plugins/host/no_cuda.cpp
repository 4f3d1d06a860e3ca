// The CUDA half of the ABI in a build without CUDA.
#include "luvc/orthogonal_merge.h"
#include "luvc/spectrum_prune.h"

extern "C" luvc_status luvc_select_top_k_cuda(
    const float*, int64_t, int64_t, int64_t, luvc_dtype, void*, void*) noexcept {
    return LUVC_NO_CUDA;
}

extern "C" luvc_status luvc_spectrum_prune_cuda(
    const luvc_spectrum_prune_shape*, const luvc_spectrum_prune_tensors*, void*, size_t, void*) noexcept {
    return LUVC_NO_CUDA;
}

extern "C" luvc_status luvc_orthogonal_merge_cuda(
    const luvc_orthogonal_merge_shape*, const luvc_orthogonal_merge_tensors*, void*, size_t, void*) noexcept {
    return LUVC_NO_CUDA;
}
