"""What parity says of units: those that a bucket leaves out of both models went the same way."""

from __future__ import annotations

import numpy as np
import pytest

from luvc_export.calibration.parity.metrics import alike


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
