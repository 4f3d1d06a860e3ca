"""Plans whose graphs take the units to compute as an input, in a few sizes: the rules, in plain numbers.

The host drops units that their neighbours foretell, and takes the smallest bucket that holds the rest. The idea is
PixelPrune's (arXiv 2604.00886); buckets of fixed sizes beside a plan, and their names, are ours.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from itertools import pairwise

from luvc_export.core.plan import Plan
from luvc_export.errors import PlanError, UsageError

#: The bucket that is the plan itself.
WHOLE = 100
_NAMED = re.compile(r"(?P<plan>.+)@(?P<share>[1-9]\d?)")


def bucket_name(plan: str, share: int) -> str:
    """Name of the plan that computes ``share`` percent of the units ``plan`` does; ``plan`` itself for all of them."""
    return plan if share == WHOLE else f"{plan}@{share}"


def bucket_of(name: str) -> tuple[str, int] | None:
    """The plan and the percentage that ``name`` (``NAME@50``) is a bucket of; None where it is none."""
    found = _NAMED.fullmatch(name)
    return (found["plan"], int(found["share"])) if found else None


def count(units: int, share: int) -> int:
    """Units in a bucket of ``share`` percent: rounded down, so that it is never more than its name."""
    return units * share // 100


def check_shares(shares: Sequence[int]) -> None:
    """Check the percentages of ``--unit-buckets``.

    Raises:
        UsageError: They do not ascend, or one is no percentage; lists every problem.
    """
    found = [f"{share}: expected 1 to {WHOLE} percent" for share in shares if not 1 <= share <= WHOLE]
    for before, share in pairwise(shares):
        if share <= before:
            found.append(f"{share} after {before}: expected ascending percentages, each once")
    if not found and not any(share < WHOLE for share in shares):
        found.append(f"no bucket below {WHOLE}, which is the plan itself")
    if found:
        raise UsageError(
            "these are no buckets:\n" + "\n".join(f"  - {problem}" for problem in found),
            where="--unit-buckets",
            got=",".join(map(str, shares)),
            expected=f"ascending percentages such as 25,50,75,{WHOLE}",
        )


def with_buckets(plans: Mapping[str, Plan], shares: Sequence[int]) -> dict[str, Plan]:
    """``plans``, and beside each the plans of its buckets below 100 %; plans of whole videos have none.

    Budgets stay those of the plan, no more than the bucket holds. Scores that filter the grid filter the row of units.

    Raises:
        UsageError: See ``check_shares``.
        PlanError: A plan cannot have buckets; lists every problem.
    """
    check_shares(shares)
    found: dict[str, Plan] = dict(plans)
    wrong: list[str] = []
    for name, plan in plans.items():
        if plan.sharing.shared:
            continue
        for share in (share for share in shares if share < WHOLE):
            units = count(plan.units, share)
            if not units:
                wrong.append(f"{name}: nothing stays: {share} % of {plan.units} units are none")
                continue
            keep = tuple(min(budget, units) for budget in plan.keep)
            try:
                found[bucket_name(name, share)] = plan.changed(keep=keep, bucket=units, spectrum="1d")
            except PlanError as error:
                wrong += [f"{name}: {line.strip().removeprefix('- ')}" for line in error.what.splitlines()[1:]]
    if wrong:
        listed = "\n".join(f"  - {problem}" for problem in dict.fromkeys(wrong))
        raise PlanError(f"the plans cannot have these buckets:\n{listed}", where="--unit-buckets")
    return found
