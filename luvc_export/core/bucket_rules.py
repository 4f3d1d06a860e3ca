"""What a plan with a bucket (``Plan.bucket``) may not say beside it."""

from __future__ import annotations

from collections.abc import Sequence

from luvc_export.core.encoder_prune import EncoderPrune
from luvc_export.core.merging import MergePass


def problems(
    bucket: object, units: int, merges: Sequence[MergePass], pruned: EncoderPrune | None, joint_images: int
) -> list[str]:
    """What contradicts the bucket, one line each; ``units`` are those of the grid."""
    found = []
    if type(bucket) is not int or not 0 < bucket < units:
        found.append(f"bucket: got {bucket!r}, expected 1 to {units - 1} of {units} units, or 0 for all")
    if any(step.rows or step.columns for step in merges):
        found.append("merges: OIM pairs rows and columns of the whole grid, of which a bucket has gaps: --merge-keep 1")
    if pruned is not None:
        found.append("encoder_prune: its shares and what it restores are of the whole grid, of which a bucket has gaps")
    if joint_images > 1:
        found.append("joint_images: images that share a budget share no bucket")
    return found
