"""Decoders of a plan that were finished for a target when they were written: nothing of them changes when they load.

Each is a small file beside the plan's own decoder, over the same weights (docs/bundle.md).
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass

from luvc_export.errors import BundleError


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
