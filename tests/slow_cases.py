"""Cases of a parametrised test that ``make slow`` runs, beside quick ones of the same test, which every run has."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import Any

import pytest


def slow_but(quick: Collection[Any], cases: Iterable[Any]) -> list[Any]:
    """``cases``, of which those that begin with none of ``quick`` are slow; a case is a name or a tuple.

    Raises:
        AssertionError: No case is left to every run.
    """
    left, marked = 0, []
    for case in cases:
        values = case if isinstance(case, tuple) else (case,)
        is_quick = case in quick or values[0] in quick
        left += is_quick
        marked.append(pytest.param(*values, marks=() if is_quick else pytest.mark.slow))
    assert left, "every run has some case of a test"
    return marked
