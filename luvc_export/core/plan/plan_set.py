"""The plans of one bundle: by name, and which of them stands beside which."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from luvc_export.core.plan import Plan
from luvc_export.core.plan import names as plan_names


@dataclass(frozen=True)
class Variant:
    """What a plan says of another one that it stands beside.

    Args:
        of: Name of that plan.
        size: Height and width of its images in pixels; None for those of the bundle.
    """

    of: str
    size: tuple[int, int] | None = None


class PlanSet(Mapping[str, Plan]):
    """Plans by name, the first a bundle's default.

    Args:
        plans: By name.
        variants: By name of those that stand beside another; None reads names: ``NAME@HxW`` is ``NAME`` for images of
            another size, ``NAME@video`` for whole videos, ``NAME@tiles`` for tiles of a picture, ``NAME@50`` for half
            the units, where there is a plan ``NAME``.
    """

    def __init__(self, plans: Mapping[str, Plan], variants: Mapping[str, Variant] | None = None) -> None:
        self._plans = dict(plans)
        if variants is None:
            roots = {name: plan_names.variant_of(name, self._plans) for name in self._plans}
            variants = {name: Variant(of, plan_names.size_of(name, of)) for name, of in roots.items() if of}
        self.variants = dict(variants)

    @classmethod
    def of(cls, plans: Mapping[str, Plan]) -> PlanSet:
        """``plans`` as a set: itself if it is one."""
        return plans if isinstance(plans, PlanSet) else cls(plans)

    def root_of(self, name: str) -> str:
        """The plan that ``name`` stands beside; itself where it stands alone."""
        return self.variants[name].of if name in self.variants else name

    def size_of(self, name: str, otherwise: tuple[int, int]) -> tuple[int, int]:
        """Height and width of the images of ``name``, ``otherwise`` where nothing says."""
        return (self.variants[name].size if name in self.variants else None) or otherwise

    def changed(self, plans: Mapping[str, Plan]) -> PlanSet:
        """The same set with other plans under the same names."""
        return PlanSet(plans, self.variants)

    def __getitem__(self, name: str) -> Plan:
        return self._plans[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._plans)

    def __len__(self) -> int:
        return len(self._plans)
