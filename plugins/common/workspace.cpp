// Workspace sizes of both devices, and whether this build has CUDA.
#include "common/orthogonal_merge.h"
#include "common/spectrum_prune.h"
#include "host/orthogonal_merge.h"
#include "host/spectrum_prune.h"
#if LUVC_WITH_CUDA
#include "cuda/workspace.h"
#endif

extern "C" int32_t luvc_has_cuda(void) noexcept {
    return LUVC_WITH_CUDA;
}

extern "C" luvc_status luvc_spectrum_prune_workspace(
    const luvc_spectrum_prune_shape* shape, luvc_device device, size_t* bytes) noexcept {
    if (shape == nullptr || bytes == nullptr) return LUVC_NULL_POINTER;
    const luvc_status status = luvc::check_shape(*shape);
    if (status != LUVC_OK) return status;
    switch (device) {
        case LUVC_HOST: *bytes = luvc::host::spectrum_prune_workspace(*shape); return LUVC_OK;
#if LUVC_WITH_CUDA
        case LUVC_CUDA: *bytes = luvc::cuda::spectrum_prune_workspace(*shape); return LUVC_OK;
#else
        case LUVC_CUDA: return LUVC_NO_CUDA;
#endif
    }
    return LUVC_INVALID_DEVICE;
}

extern "C" luvc_status luvc_orthogonal_merge_workspace(
    const luvc_orthogonal_merge_shape* shape, luvc_device device, size_t* bytes) noexcept {
    if (shape == nullptr || bytes == nullptr) return LUVC_NULL_POINTER;
    const luvc_status status = luvc::check_shape(*shape);
    if (status != LUVC_OK) return status;
    switch (device) {
        case LUVC_HOST: *bytes = luvc::host::orthogonal_merge_workspace(*shape); return LUVC_OK;
#if LUVC_WITH_CUDA
        case LUVC_CUDA: *bytes = luvc::cuda::orthogonal_merge_workspace(*shape); return LUVC_OK;
#else
        case LUVC_CUDA: return LUVC_NO_CUDA;
#endif
    }
    return LUVC_INVALID_DEVICE;
}
