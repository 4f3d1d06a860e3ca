/*
 * SPU, the spectrum pruning unit: low-pass score of the visual tokens, best `keep` of each group, order kept.
 *
 *   Z     = norm_weight * V / sqrt(mean(V^2) + epsilon)        RMSNorm, fp32
 *   Y     = F (F^T Z)                                          F [tokens, frequencies] orthonormal, token axis
 *   score = ||Y||, ||Z - Y|| or ||Y|| / ||Z|| of every token   fp32
 *
 * then selection as luvc_select_top_k and a gather of every payload. A NaN in one token makes every score of its group
 * NaN, since the filter mixes tokens: the first `keep` tokens stay. A token that `places` marks as padding has the score
 * -infinity, so it stays only where there are fewer others than `keep`. With keep = 0 or keep = tokens no score is needed
 * and none is computed unless `scores` asks for it.
 */
#ifndef LUVC_SPECTRUM_PRUNE_H
#define LUVC_SPECTRUM_PRUNE_H

#include "luvc/abi.h"

#define LUVC_MAX_PAYLOADS 7

#ifdef __cplusplus
extern "C" {
#endif

typedef int32_t luvc_score;
enum { LUVC_SCORE_LOW = 0, LUVC_SCORE_RESIDUAL = 1, LUVC_SCORE_RATIO = 2 };

typedef struct luvc_spectrum_prune_shape {
    int64_t groups;          /* images or frames, 0..65535; 0 does nothing */
    int64_t tokens;          /* visual tokens of a group, 0..2^21 */
    int64_t channels;        /* hidden size, 1..2^24; tokens * channels < 2^31 */
    int64_t frequencies;     /* columns of the basis, 1..tokens when there are tokens */
    int64_t keep;            /* 0..tokens */
    luvc_dtype dtype;        /* of values: FLOAT32, FLOAT16, BFLOAT16 */
    luvc_dtype weight_dtype; /* of norm_weight: FLOAT32, FLOAT16, BFLOAT16 */
    luvc_dtype index_dtype;  /* of indices: INT32, INT64 */
    luvc_score score;
    float epsilon; /* of the RMSNorm, finite, >= 0 */
} luvc_spectrum_prune_shape;

/* Rows that travel with a token: [planes, groups, tokens, row_bytes] -> [planes, groups, keep, row_bytes]. */
typedef struct luvc_payload {
    const void* source;
    void* target;
    int64_t planes;    /* 1..4096, e.g. 3 for the t, h, w position ids of M-RoPE */
    int64_t row_bytes; /* > 0, tokens * row_bytes < 2^31 */
} luvc_payload;

typedef struct luvc_spectrum_prune_tensors {
    const void* values;           /* dtype [groups, tokens, channels] */
    const void* norm_weight;      /* weight_dtype [channels] */
    const float* basis;           /* [tokens, frequencies] */
    void* kept_values;            /* dtype [groups, keep, channels], or NULL */
    void* indices;                /* index_dtype [groups, keep] */
    float* scores;                /* [groups, tokens], or NULL */
    const luvc_payload* payloads; /* payload_count of them, in host memory, read before the call returns */
    int32_t payload_count;        /* 0..LUVC_MAX_PAYLOADS */
    const int64_t* places;        /* [groups, tokens], negative for padding, or NULL where there is none */
} luvc_spectrum_prune_tensors;

LUVC_API luvc_status luvc_spectrum_prune_workspace(
    const luvc_spectrum_prune_shape* shape, luvc_device device, size_t* bytes) LUVC_NOEXCEPT;
LUVC_API luvc_status luvc_spectrum_prune_host(const luvc_spectrum_prune_shape* shape,
    const luvc_spectrum_prune_tensors* tensors, void* workspace, size_t workspace_bytes) LUVC_NOEXCEPT;
LUVC_API luvc_status luvc_spectrum_prune_cuda(const luvc_spectrum_prune_shape* shape,
    const luvc_spectrum_prune_tensors* tensors, void* workspace, size_t workspace_bytes, void* stream) LUVC_NOEXCEPT;

#ifdef __cplusplus
}
#endif
#endif
