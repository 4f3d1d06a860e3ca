"""The plans of one bundle: by name, which of them stands beside which, and the buckets of units beside a plan.

A bucket is a plan whose graphs take the units to compute as an input. The host drops units that their neighbours
foretell, and takes the smallest bucket that holds the rest: PixelPrune's idea (arXiv 2604.00886); buckets of fixed
sizes beside a plan, and their names, are ours.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

from luvc_export.core.plan import Plan
from luvc_export.core.plan.names import bucket_name, size_of, variant_of
from luvc_export.errors import PlanError, UsageError


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
            roots = {name: variant_of(name, self._plans) for name in self._plans}
            variants = {name: Variant(of, size_of(name, of)) for name, of in roots.items() if of}
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


#: The bucket that is the plan itself.
WHOLE = 100


def count(units: int, share: int) -> int:
    """Units in a bucket of ``share`` percent: rounded down, so that it is never more than its name."""
    return units * share // 100


def check_shares(shares: Sequence[int]) -> None:
    """Check the percentages of ``--unit-buckets``.

    Raises:
        UsageError: They do not ascend, or one is no percentage; lists every problem.
    """
    problems = [f"{share}: expected 1 to {WHOLE} percent" for share in shares if not 1 <= share <= WHOLE]
    for before, share in pairwise(shares):
        if share <= before:
            problems.append(f"{share} after {before}: expected ascending percentages, each once")
    if not problems and not any(share < WHOLE for share in shares):
        problems.append(f"no bucket below {WHOLE}, which is the plan itself")
    if problems:
        raise UsageError(
            "these are no buckets:\n" + "\n".join(f"  - {problem}" for problem in problems),
            where="--unit-buckets",
            got=",".join(map(str, shares)),
            expected=f"ascending percentages such as 25,50,75,{WHOLE}",
        )


def with_buckets(plans: Mapping[str, Plan], shares: Sequence[int]) -> PlanSet:
    """``plans``, and beside each the plans of its buckets below 100 %; plans of whole videos have none.

    Budgets stay those of the plan, no more than the bucket holds. Scores that filter the grid filter the row of units.

    Raises:
        UsageError: See ``check_shares``.
        PlanError: A plan cannot have buckets; lists every problem.
    """
    check_shares(shares)
    whole = PlanSet.of(plans)
    together, variants = dict(whole), dict(whole.variants)
    wrong: list[str] = []
    for name, plan in whole.items():
        if plan.sharing.shared:
            continue
        for share in (share for share in shares if share < WHOLE):
            units = count(plan.units, share)
            if not units:
                wrong.append(f"{name}: nothing stays: {share} % of {plan.units} units are none")
                continue
            keep = tuple(min(budget, units) for budget in plan.keep)
            bucket, size = bucket_name(name, share), whole.variants[name].size if name in whole.variants else None
            try:
                together[bucket] = plan.changed(keep=keep, bucket=units, spectrum="1d")
                variants[bucket] = Variant(whole.root_of(name), size)
            except PlanError as error:
                wrong += [f"{name}: {line.strip().removeprefix('- ')}" for line in error.what.splitlines()[1:]]
    if wrong:
        listed = "\n".join(f"  - {problem}" for problem in dict.fromkeys(wrong))
        raise PlanError(f"the plans cannot have these buckets:\n{listed}", where="--unit-buckets")
    return PlanSet(together, variants)
