"""The one table of tolerances: per dtype, each with its reason. Nothing else in parity holds a limit.

Errors are relative and worst-case over every element, layer and case. "Measured" is the bundled model, 8 layers,
``luvc-export parity``; see docs/parity.md.
The numbers and reasons are rows of ``tolerances.json``: by dtype, then by limit, the value and why it is that value.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path

from luvc_export.core.precision import CODED_CACHES, PRECISIONS


@dataclass(frozen=True)
class Limit:
    """A number and why it is that number."""

    value: float
    why: str


@dataclass(frozen=True)
class Tolerances:
    """Limits of one dtype.

    Attributes:
        rel_l2: Largest relative L2 error of a tensor.
        worst_row: Largest relative L2 error of a row of it.
        cosine: Smallest cosine.
        kl: Largest KL divergence at a position, in nats.
        top1: Smallest share of positions with the same most probable token.
        merged: Smallest share of units that are in tokens of the same units.
        overlap: Smallest share of kept visual tokens in common.
        unexplained: Largest share of kept tokens that differ though no tie explains it.
        tie: Relative distance to the K-th score within which two scores count as tied.
        greedy: Smallest share of greedy answers with the same tokens.
        exact: Smallest share of answers with the same text.
    """

    rel_l2: Limit
    worst_row: Limit
    cosine: Limit
    kl: Limit
    top1: Limit
    merged: Limit
    overlap: Limit
    unexplained: Limit
    tie: Limit
    greedy: Limit
    exact: Limit


_LIMITS = {
    row: {name: Limit(*limit) for name, limit in limits.items()}
    for row, limits in json.loads(Path(__file__).with_suffix(".json").read_text(encoding="utf-8")).items()
}

#: Limits that differ where caches are codes; others are the dtype's.
_CACHES = _LIMITS.pop("caches")

TABLE = {name: Tolerances(**limits) for name, limits in _LIMITS.items()}

#: Smallest share of the uncompressed accuracy that a compressed plan may keep: the issue's "negligible loss".
RETENTION = Limit(0.99, "the accuracy goal at half the prefill FLOPs")

#: Smallest share of pairs further apart than twice a vector's error that are ordered alike.
RANKS = Limit(1.0, "no rounding that the limit of a vector's error allows turns them around")

_ROWS = {name: f"{item.weights}-bit" for name, item in PRECISIONS.items()}


def tolerances(*dtypes: str) -> Tolerances:
    """Limits for a comparison of models in ``dtypes`` (or quantised precisions): those of the coarsest.

    Where one of them ends in ``CODED_CACHES``, limits that codes of caches are looser in are theirs.
    """
    plain = [name.removesuffix(CODED_CACHES) for name in dtypes]
    coarsest = TABLE[max((_ROWS.get(name, name) for name in plain), key=[*TABLE].index)]
    if plain == [*dtypes]:
        return coarsest
    largest = ("rel_l2", "worst_row")
    looser = {
        name: (max if name in largest else min)(getattr(coarsest, name), limit, key=lambda one: one.value)
        for name, limit in _CACHES.items()
    }
    return replace(coarsest, **looser)
