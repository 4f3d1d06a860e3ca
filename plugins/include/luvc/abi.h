/*
 * C ABI of the LUVC kernels: version, status codes, element types, selection.
 *
 * Tensors are dense and row-major. Functions ending in _host read and write host memory; functions ending in _cuda
 * read and write device memory, only enqueue work on the given stream, allocate nothing and never synchronise, so they
 * can be captured in a CUDA graph. A build without CUDA exports them too and they return LUVC_NO_CUDA.
 */
#ifndef LUVC_ABI_H
#define LUVC_ABI_H

#include <stddef.h>
#include <stdint.h>

#define LUVC_ABI_MAJOR 2
#define LUVC_ABI_MINOR 0

/* Every workspace pointer must be a multiple of this many bytes. */
#define LUVC_WORKSPACE_ALIGNMENT 16

#if defined(__GNUC__)
#define LUVC_API __attribute__((visibility("default")))
#else
#define LUVC_API
#endif

#ifdef __cplusplus
#define LUVC_NOEXCEPT noexcept
extern "C" {
#else
#define LUVC_NOEXCEPT
#endif

/* Enumerations travel as int32_t, so that a value outside them is an error code and not undefined behaviour. */
typedef int32_t luvc_status;
enum {
    LUVC_OK = 0,
    LUVC_NULL_POINTER = 1,
    LUVC_INVALID_SHAPE = 2,
    LUVC_INVALID_DTYPE = 3,
    LUVC_INVALID_KEEP = 4,
    LUVC_INVALID_SCORE = 5,
    LUVC_INVALID_EPSILON = 6,
    LUVC_INVALID_REMOVED = 7,
    LUVC_INVALID_PAYLOAD = 8,
    LUVC_INVALID_DEVICE = 9,
    LUVC_WORKSPACE_TOO_SMALL = 10,
    LUVC_WORKSPACE_MISALIGNED = 11,
    LUVC_NO_CUDA = 12,
    LUVC_CUDA_ERROR = 13
};

typedef int32_t luvc_dtype;
enum { LUVC_FLOAT32 = 0, LUVC_FLOAT16 = 1, LUVC_BFLOAT16 = 2, LUVC_INT32 = 3, LUVC_INT64 = 4 };

typedef int32_t luvc_device;
enum { LUVC_HOST = 0, LUVC_CUDA = 1 };

/* major << 16 | minor. A caller accepts an equal major and a minor not below its own. */
LUVC_API uint32_t luvc_abi_version(void) LUVC_NOEXCEPT;

/* One English sentence for a status; never NULL, also for values outside the enumeration. */
LUVC_API const char* luvc_status_string(luvc_status status) LUVC_NOEXCEPT;

/* 1 when the library was built with CUDA kernels, whether or not a device is present. */
LUVC_API int32_t luvc_has_cuda(void) LUVC_NOEXCEPT;

/*
 * Indices of the `keep` best scores of each group, ascending.
 *
 * Order: score descending, then index ascending. NaN ranks as -infinity; -0 equals +0.
 *   scores  float32 [groups, tokens]
 *   indices index_dtype (LUVC_INT32 or LUVC_INT64) [groups, keep], 0 <= keep <= tokens
 * _host needs a workspace of luvc_select_top_k_host_workspace bytes, _cuda needs none.
 */
LUVC_API luvc_status luvc_select_top_k_host_workspace(int64_t tokens, size_t* bytes) LUVC_NOEXCEPT;
LUVC_API luvc_status luvc_select_top_k_host(const float* scores, int64_t groups, int64_t tokens, int64_t keep,
    luvc_dtype index_dtype, void* indices, void* workspace, size_t workspace_bytes) LUVC_NOEXCEPT;
LUVC_API luvc_status luvc_select_top_k_cuda(const float* scores, int64_t groups, int64_t tokens, int64_t keep,
    luvc_dtype index_dtype, void* indices, void* stream) LUVC_NOEXCEPT;

#ifdef __cplusplus
}
#endif
#endif
