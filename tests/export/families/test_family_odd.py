"""Odd-shaped checkpoints equal transformers with plan ``none``: a share of what ``family_odd.py`` compares."""

from __future__ import annotations

from pathlib import Path

import pytest
from family_checkpoints import quick
from family_harness import MADE_HERE
from family_odd import FITS, GREEDY, ODD, compared
from slow_cases import slow_but

#: Every family once, both shapes and every fit among them.
SHARE = [(name, ODD[index % 2], FITS[index % 3]) for index, name in enumerate(MADE_HERE)]


@pytest.mark.parametrize(("name", "kind", "fit"), slow_but(quick(), SHARE))
def test_an_odd_checkpoint_is_transformers(name: str, kind: str, fit: str, tmp_path: Path) -> None:
    """About a picture of another shape, and about two."""
    result = compared(name, kind, tmp_path, (fit,), step=2)[fit]  # type: ignore[arg-type, index]
    assert result.passed, "\n".join(result.lines(True))
    assert max(step.rel_l2 for step in result.steps) < 1e-4
    names = {step.tensor for step in result.steps}
    assert {"vision", "layer 0 in", "layer 1 in", "logits"} <= names and any(one.endswith(" key") for one in names)
    assert all(item.diverged is None for item in result.comparison.answered)
    assert max(len(item.reference.tokens) for item in result.comparison.answered) == GREEDY
