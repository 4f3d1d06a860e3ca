"""What parity says of units and of kept tokens, from numbers alone."""

from __future__ import annotations

import numpy as np
import pytest

from luvc_export.calibration.parity.metrics import alike
from luvc_export.calibration.parity.result import Gate
from luvc_export.calibration.parity.tolerances import tolerances
from luvc_export.export.compression import scores


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


def test_what_is_chosen_in_rounds_may_differ_as_far_as_kept_sets_may() -> None:
    """A tie in a round is not seen in the scores that are left; whatever ranks once has no such excuse in fp32."""
    limit = tolerances("fp32", "fp32")
    for name, most in (("maxmin", 0.005), ("scope", 0.005), ("residual", 0.0)):
        assert limit.without_a_tie(scores.method(name)).value == pytest.approx(most)
    odd = limit.without_a_tie(scores.method("maxmin"))
    assert Gate.most("tokens", "kept", 2 / 782, odd).passed and not Gate.most("tokens", "kept", 5 / 782, odd).passed
