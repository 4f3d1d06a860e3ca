#include "luvc/abi.h"

extern "C" uint32_t luvc_abi_version(void) noexcept {
    return LUVC_ABI_MAJOR << 16 | LUVC_ABI_MINOR;
}

extern "C" const char* luvc_status_string(luvc_status status) noexcept {
    switch (status) {
        case LUVC_OK: return "ok";
        case LUVC_NULL_POINTER: return "a required pointer is null";
        case LUVC_INVALID_SHAPE:
            return "a dimension is out of range, or the dimensions multiply past what is addressable";
        case LUVC_INVALID_DTYPE: return "an element type is not one this function takes";
        case LUVC_INVALID_KEEP: return "keep must lie in 0..tokens";
        case LUVC_INVALID_SCORE: return "score must be low (0), residual (1) or ratio (2)";
        case LUVC_INVALID_EPSILON: return "epsilon must be finite and not negative";
        case LUVC_INVALID_REMOVED: return "removed_columns must lie in 0..width/2 and removed_rows in 0..height/2";
        case LUVC_INVALID_PAYLOAD:
            return "payload_count must lie in 0..7, planes in 1..4096, and tokens * row_bytes in 1..2^31 - 1";
        case LUVC_INVALID_DEVICE: return "device must be host (0) or cuda (1)";
        case LUVC_WORKSPACE_TOO_SMALL: return "the workspace is smaller than the reported size";
        case LUVC_WORKSPACE_MISALIGNED: return "the workspace must be aligned to 16 bytes";
        case LUVC_NO_CUDA: return "this library was built without CUDA kernels";
        case LUVC_CUDA_ERROR: return "a CUDA launch failed; cudaPeekAtLastError tells which error";
        default: return "unknown status";
    }
}
