/*
 * OIM, the orthogonal iterative merger: one pass over the rows of a unit grid, then one over its columns.
 *
 * On each line of length L, every odd unit looks at its left and right even neighbour (cosine, fp32, each norm at least
 * 1e-12) and takes the more similar one, the left one when equal. The `removed` most similar odd units join theirs
 * (equal: lower index; NaN ranks as -infinity); every other unit stays. A unit becomes the size-weighted mean of its
 * members, in fp32, rounded to dtype after each axis; sizes add up; positions are size-weighted means.
 *
 * With `padded`, units of a size below 0.5 are padding. A pair of padding counts as 4 - p / P, where p is its place among
 * the P pairs of the line, a pair of padding and picture as -(3 + p / P): padding leaves first, from the left, and joins
 * a picture last (luvc_export/export/compression/oim.py).
 */
#ifndef LUVC_ORTHOGONAL_MERGE_H
#define LUVC_ORTHOGONAL_MERGE_H

#include "luvc/abi.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct luvc_orthogonal_merge_shape {
    int64_t batch;           /* images, 0..65535; 0 does nothing */
    int64_t height;          /* rows of units, > 0 */
    int64_t width;           /* units in a row, > 0 */
    int64_t channels;        /* of a unit (4 C for a 2x2 patch group), > 0 */
    int64_t position_planes; /* floats of a position, >= 0 */
    int64_t removed_columns; /* r_w, taken from every row, 0..width / 2 */
    int64_t removed_rows;    /* r_h, taken from every column, 0..height / 2 */
    luvc_dtype dtype;        /* of values: FLOAT32, FLOAT16, BFLOAT16 */
    int32_t padded;          /* 1 where small units are padding, else 0 */
} luvc_orthogonal_merge_shape;

/* H' = height - removed_rows, W' = width - removed_columns. Outputs must not overlap inputs. */
typedef struct luvc_orthogonal_merge_tensors {
    const void* values;      /* dtype [batch, height, width, channels] */
    const float* sizes;      /* [batch, height, width], > 0 */
    const float* positions;  /* [batch, height, width, position_planes]; NULL when position_planes is 0 */
    void* merged_values;     /* dtype [batch, H', W', channels] */
    float* merged_sizes;     /* [batch, H', W'] */
    float* merged_positions; /* [batch, H', W', position_planes]; NULL when position_planes is 0 */
    int32_t* merged_into;    /* [batch, height * width], row-major place in (H', W') of every unit, or NULL */
} luvc_orthogonal_merge_tensors;

LUVC_API luvc_status luvc_orthogonal_merge_workspace(
    const luvc_orthogonal_merge_shape* shape, luvc_device device, size_t* bytes) LUVC_NOEXCEPT;
LUVC_API luvc_status luvc_orthogonal_merge_host(const luvc_orthogonal_merge_shape* shape,
    const luvc_orthogonal_merge_tensors* tensors, void* workspace, size_t workspace_bytes) LUVC_NOEXCEPT;
LUVC_API luvc_status luvc_orthogonal_merge_cuda(const luvc_orthogonal_merge_shape* shape,
    const luvc_orthogonal_merge_tensors* tensors, void* workspace, size_t workspace_bytes, void* stream) LUVC_NOEXCEPT;

#ifdef __cplusplus
}
#endif
#endif
