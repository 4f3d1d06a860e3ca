"""Which plans of a bundle stand in for which: those for other image sizes, for videos or tiles, for fewer units."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

from luvc_export.bundle.manifest import Manifest, PlanEntry

#: What tells variants of one plan from each other.
_FACTS = ("size", "kind", "bucket", "precision", "cache_precision")


def sizes_of(manifest: Manifest, name: str) -> dict[tuple[int, int], str]:
    """Image sizes (height, width) of plan ``name`` and the plan for each, its own first.

    A variant for another size, asked for by name, has its own alone.
    """
    own = manifest.plans[name]
    if own.size != manifest.plans[root_of(manifest, name)].size:
        return {own.size: name}
    return {own.size: name} | {entry.size: other for other, entry in _alike_but(manifest, name, "size")}


def buckets_of(manifest: Manifest, name: str) -> dict[int, str]:
    """Units of each bucket beside plan ``name`` and the bucket's name, ascending; the plan itself is none."""
    own = manifest.plans[name]
    if own.bucket:
        return {}
    beside = {
        entry.plan.encoder.computed_units: other
        for other, entry in _alike_but(manifest, name, "bucket")
        if entry.plan.grid == own.plan.grid
    }
    return dict(sorted(beside.items()))


def shared_plan(manifest: Manifest, name: str, kind: Literal["clip", "tiles"]) -> str | None:
    """The variant of plan ``name`` that shares budgets over whole videos, or over the tiles of a picture."""
    own = manifest.plans[name]
    if own.kind != "picture" or own.bucket or own.size != manifest.plans[root_of(manifest, name)].size:
        return None
    return next((other for other, entry in _alike_but(manifest, name, "kind") if entry.kind == kind), None)


def answering(manifest: Manifest, name: str) -> set[str]:
    """Plan ``name`` and every variant that a question for it can be routed to."""
    kinds = {name, shared_plan(manifest, name, "clip"), shared_plan(manifest, name, "tiles")} - {None}
    sized = {other for one in kinds if one for other in sizes_of(manifest, one).values()}
    return sized | {other for one in sized for other in buckets_of(manifest, one).values()}


def root_of(manifest: Manifest, name: str) -> str:
    """The plan that ``name`` is a variant of; itself where it stands alone."""
    return manifest.plans[name].variant_of or name


def _alike_but(manifest: Manifest, name: str, fact: str) -> Iterator[tuple[str, PlanEntry]]:
    """Variants of one plan with ``name`` that differ from it in ``fact`` alone."""
    own, root = manifest.plans[name], root_of(manifest, name)
    for other, entry in manifest.plans.items():
        differ = [each for each in _FACTS if getattr(entry, each) != getattr(own, each)]
        if root_of(manifest, other) == root and differ == [fact]:
            yield other, entry
