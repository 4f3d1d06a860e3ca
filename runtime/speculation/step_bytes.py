"""Bytes of weights that a decode step reads: what bounds it where arithmetic does not."""

from __future__ import annotations

from luvc_export.bundle.folder import Bundle
from luvc_export.bundle.manifest import Manifest
from luvc_export.core.precision import find


def weight_bytes(manifest: Manifest, bits: int, head: int | None = None) -> int:
    """Bytes of the matrices one decode step reads: every projection and the head; of the embedding it reads one row.

    ``bits`` are those of a weight as it is computed with: ONNX Runtime's CPU provider computes in fp32 whatever is
    stored. ``head`` are those of the head's, where it has others.
    """
    shape = manifest.decoder
    attention = 2 * shape.hidden * (shape.heads + shape.kv_heads) * shape.head_dim
    layer = attention + 3 * shape.hidden * shape.intermediate
    return (bits * shape.layers * layer + (head or bits) * shape.hidden * manifest.head_rows) // 8


def relative_cost(draft: Bundle, own: str, bundle: Bundle, plan: str) -> float:
    """A step of a smaller model by one of a larger, by the weights they read, on one engine.

    Args:
        draft: The smaller model's bundle.
        own: Its plan.
        bundle: The larger's.
        plan: Its plan.
    """
    sizes = []
    for one, name in ((draft, own), (bundle, plan)):
        quantised = one.entry(name).quantised
        sizes.append(weight_bytes(one.manifest, 32 if quantised is None else find(quantised.precision).weights))
    return sizes[0] / sizes[1]
