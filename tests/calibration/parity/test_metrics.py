"""What parity says of units and of kept tokens, from numbers alone."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from flat_plans import flat_plan

from luvc_export.calibration.parity.metrics import Overlap, alike
from luvc_export.calibration.parity.result import _tokens
from luvc_export.calibration.parity.tolerances import tolerances


@pytest.mark.parametrize(
    ("left", "right", "same"),
    [
        ([0, 0, 1, -1, -1, 2], [0, 0, 1, -1, -1, 2], 6),
        ([0, 0, 1, -1, -1, 2], [0, 0, 1, -1, 2, -1], 4),
        ([0, 0, 1, -1, -1, 2], [0, 0, 1, 2, 2, 3], 4),
        ([0, 0, 1, 2], [0, 1, 1, 2], 1),
    ],
)
def test_units_left_out_are_alike_where_both_leave_them_out(left: list[int], right: list[int], same: int) -> None:
    compared = alike(np.array([left]), np.array([right]))
    assert compared is not None and compared.units == (len(left), same) and compared.all == (same == len(left))


def test_where_no_score_shows_the_ties_of_rounds_kept_sets_are_held_alone() -> None:
    """5 of 782 tokens fail either way, 2 where a tie would be seen: a gap is known, in fp32."""
    unexplained = "kept tokens that no tie explains"
    for name, odd, gap, dtype, failing in (
        ("maxmin", 2, None, "fp32", []),
        ("maxmin", 5, None, "fp32", ["kept-set overlap"]),
        ("maxmin", 2, 0.0, "fp32", [unexplained]),
        ("maxmin", 5, 0.0, "fp16", []),
        ("residual", 2, None, "fp32", [unexplained]),
    ):
        plan = flat_plan((4, 4), (16, 8, 0), score=name)
        overlap = {1: Overlap(782, 782 - odd, 0, 0, gap)}
        seen: Any = SimpleNamespace(
            measured=[SimpleNamespace(overlap=overlap, merged=None)], reference=SimpleNamespace(plan=plan)
        )
        gates = _tokens(seen, tolerances("fp32", dtype))
        assert [gate.name for gate in gates if not gate.passed] == failing
