#include "luvc/abi.h"
#include "luvc/orthogonal_merge.h"
#include "luvc/spectrum_prune.h"

/* The Python binding relies on these sizes. */
_Static_assert(sizeof(luvc_payload) == 32, "luvc_payload");
_Static_assert(sizeof(luvc_spectrum_prune_shape) == 64, "luvc_spectrum_prune_shape");
_Static_assert(sizeof(luvc_spectrum_prune_tensors) == 72, "luvc_spectrum_prune_tensors");
_Static_assert(sizeof(luvc_orthogonal_merge_shape) == 64, "luvc_orthogonal_merge_shape");
_Static_assert(sizeof(luvc_orthogonal_merge_tensors) == 56, "luvc_orthogonal_merge_tensors");
