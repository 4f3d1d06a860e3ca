"""An exported plan in ``luvc.json``: its graphs, and what it is: for which images, of which precision, beside what.

Decoders of a plan that were finished for a target when they were written are a ``GraphSet``, small files beside the
plan's own decoder, over the same weights: nothing of them changes when they load (docs/bundle.md).
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass, field
from typing import Any

from luvc_export.core.plan import Plan
from luvc_export.core.plan.names import variant_of
from luvc_export.core.plan.sharing import Kind
from luvc_export.core.precision import PRECISIONS
from luvc_export.errors import BundleError


@dataclass(frozen=True)
class CalibrationData:
    """What a precision was chosen with: ``sha256`` covers pixels, prompts and answers in order."""

    name: str
    sha256: str
    cases: int
    pictures: int


@dataclass(frozen=True)
class Quantisation:
    """How the graphs of a plan are quantised.

    Args:
        precision: A name of ``luvc_export.core.precision``.
        weights: File of every large tensor of both graphs, beside ``luvc.json``.
        layers: Precision of each product with weights, by the checkpoint's names: the mixed-precision map.
        recipe: How ranges and scales were chosen.
        data: What they were chosen with.
    """

    precision: str
    weights: str
    layers: dict[str, str]
    recipe: dict[str, str]
    data: CalibrationData

    @property
    def measured(self) -> str:
        """What its figures stand under: the name it was made by (``core.named_plans.QUANTISED``), or its precision."""
        return self.recipe.get("named", self.precision)


@dataclass(frozen=True)
class CacheQuantisation:
    """Caches that are stored in codes (docs/calibration.md).

    Args:
        precision: A name of ``luvc_export.core.precision.CACHES``.
        data: What the keys' scales were chosen with.
    """

    precision: str
    data: CalibrationData


@dataclass(frozen=True)
class PlanEntry:
    """One exported plan: its graphs, by file name, and what it is. Its name is for people and says nothing.

    Args:
        plan: What is compressed.
        vision: Graph of the encoder, beside ``luvc.json``.
        decoder: Graph of the LLM.
        decoder_debug: The same with the kept indices as inputs; None where none was written.
        quantised: How the graphs were quantised; None in the bundle's own precision.
        size: Height and width of its images in pixels.
        precision: Of the products with weights: the bundle's ``dtype``, or a name of ``luvc_export.core.precision``.
        variant_of: The plan of the bundle that it stands beside, for images of another size, whole videos, tiles, fewer
            units, or in another precision (``bundle.variants.root_of``); None for one that stands alone.
        caches: How keys and values are stored; None in the precision of the graphs.

    Attributes:
        kind: What one budget is for: ``picture``, ``clip`` or ``tiles``; as the plan shares it.
        bucket: Units of an image that the graphs compute, which the host names; 0 for all of them. As the plan says.
    """

    plan: Plan
    vision: str
    decoder: str
    decoder_debug: str | None = None
    quantised: Quantisation | None = None
    size: tuple[int, int] = field(kw_only=True)
    precision: str = field(kw_only=True)
    variant_of: str | None = field(default=None, kw_only=True)
    caches: CacheQuantisation | None = field(default=None, kw_only=True)
    kind: Kind = field(init=False)
    bucket: int = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "kind", self.plan.sharing.kind)
        object.__setattr__(self, "bucket", self.plan.encoder.bucket)

    @property
    def cache_precision(self) -> str | None:
        """Of the codes that keys and values are stored in; None where they are in the precision of the graphs."""
        return None if self.caches is None else self.caches.precision


@dataclass(frozen=True)
class GraphSet:
    """The decoders of one plan for one target, by file name. Which caches are two inputs their graphs say.

    Args:
        plan: Name of the plan.
        target: Name of the target.
        prompts: Takes prompts, and steps too.
        steps: For calls of a few tokens behind rows that are there; ``prompts`` where there is no other.
        head: The last norm and the head of both (``graph_io.HEAD_ROWS``); None where it is in them alone.
        slots: They take adapters, of a bundle with slots; such a bundle has a set without them too.
    """

    plan: str
    target: str
    prompts: str
    steps: str
    head: str | None = None
    slots: bool = False

    @property
    def files(self) -> frozenset[str]:
        """Of all of them."""
        return frozenset({self.prompts, self.steps, self.head} - {None})  # type: ignore[arg-type]


def check_sets(sets: Iterable[GraphSet], plans: Collection[str], files: Collection[str], where: str) -> None:
    """Check that sets are of plans and files that there are, one for each plan and target.

    Raises:
        BundleError: One is not.
    """
    seen = set[tuple[str, str, bool]]()
    for one in sets:
        key = one.plan, one.target, one.slots
        missing = sorted(one.files.difference(files))
        if one.plan not in plans or missing or key in seen:
            raise BundleError(
                "a set of finished graphs is of no plan, of files that are not listed, or there twice",
                where=where,
                got=f"plan {one.plan!r}, target {one.target!r}, {missing or 'all files listed'}"[:200],
                expected="one set for a plan and a target, of files of this bundle",
                fix="luvc-export build BUNDLE --target TARGET writes it again",
            )
        seen.add(key)


#: The schema of ``luvc.json`` whose entries did not say what they are: it stood in their names.
SCHEMA_1 = 1


def with_facts(data: dict[str, Any], version: int) -> dict[str, Any]:
    """JSON of a manifest of schema 1 as that of schema ``version``: each entry with size, precision and ``variant_of``.

    What is missing or of another type stays so: whoever reads the fields says what is wrong.
    """
    plans, image = data.get("plans"), data.get("image")
    if not isinstance(plans, dict) or not isinstance(image, dict):
        return data
    entries: dict[str, Any] = {}
    for name, entry in plans.items():
        if isinstance(entry, dict):
            quantised, precision = entry.get("quantised"), data.get("dtype")
            if isinstance(quantised, dict):
                precision = quantised.get("precision")
            known = PRECISIONS.get(precision) if isinstance(precision, str) else None
            beside = variant_of(name, plans, known.suffix if known else "")
            entry = {**entry, "precision": precision, "variant_of": beside}
            if entry.get("size") is None:
                entry["size"] = image.get("size")
        entries[name] = entry
    return {**data, "plans": entries, "schema_version": version}
