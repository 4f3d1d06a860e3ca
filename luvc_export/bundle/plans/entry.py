"""An exported plan in ``luvc.json``: its graphs, and what it is: for which images, of which precision, beside what."""

from __future__ import annotations

from dataclasses import dataclass, field

from luvc_export.core.plan import Plan
from luvc_export.core.plan.sharing import Kind


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
            units, or in another precision (``bundle.plans.variants``); None for one that stands alone.
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
