"""Names of plans that stand beside another one, for people; and the one reader of them, for what has names alone.

Bundles say what their plans are (``bundle.plan_entry``); only those of schema 1, and plans that a caller hands over in
a plain mapping, say it by their names.
"""

from __future__ import annotations

import re
from collections.abc import Container

#: Marks that follow a plan's name: what shares a budget, the image's height and width, percent of units.
_MARKS = re.compile(r"(?:@(?:video|tiles|\d+x\d+|[1-9]\d?))*")
_SIZE = re.compile(r"@(\d+)x(\d+)")
_KINDS = {"picture": "", "clip": "@video", "tiles": "@tiles"}


def shared_name(plan: str, kind: str) -> str:
    """Name of the plan beside ``plan`` whose budgets a ``clip`` or ``tiles`` share; ``plan`` for a ``picture``."""
    return f"{plan}{_KINDS[kind]}"


def sized_name(plan: str, size: tuple[int, int]) -> str:
    """Name of the plan beside ``plan`` for images of ``size``, height and width in pixels."""
    return f"{plan}@{size[0]}x{size[1]}"


def bucket_name(plan: str, share: int) -> str:
    """Name of the plan beside ``plan`` that computes ``share`` percent of its units."""
    return f"{plan}@{share}"


def quantised_name(plan: str, root: str, suffix: str, named: str = "") -> str:
    """Name of ``plan`` in a precision of ``suffix``, or ``named`` so; what it adds to its root's name stays behind."""
    begin = root if plan.startswith(root) else plan
    return f"{named or begin + suffix}{plan[len(begin) :]}"


def variant_of(name: str, plans: Container[str], suffix: str = "") -> str | None:
    """The plan that ``name`` says it stands beside: the first of ``plans`` that ``name`` is with marks behind it.

    Args:
        name: Such as ``NAME@HxW``, ``NAME@video@HxW``, ``NAME@tiles``, ``NAME@50``, or ``NAME_int8@HxW``.
        plans: Names that there are.
        suffix: Of the plan's precision.
    """
    for at in [place for place, sign in enumerate(name) if sign == "@"] + [len(name)]:
        begin, marks = name[:at], name[at:]
        if not _MARKS.fullmatch(marks):
            continue
        plain = begin.removesuffix(suffix)
        root = next((one for one in (plain, begin) if one in plans and one != name), None)
        if root is not None:
            return root
    return None


def size_of(name: str, root: str) -> tuple[int, int] | None:
    """Height and width that ``name`` adds to the name of the plan it stands beside; None where it adds none."""
    marks = _SIZE.search(name[len(root) :]) if name.startswith(root) else None
    return (int(marks[1]), int(marks[2])) if marks else None
