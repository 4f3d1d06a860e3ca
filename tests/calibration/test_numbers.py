from __future__ import annotations

import numpy as np
import pytest

from luvc_export.calibration import intervals
from luvc_export.calibration.parity import metrics
from luvc_export.calibration.parity.metrics import overlaps
from luvc_export.calibration.parity.tolerances import TABLE, tolerances


def test_a_difference_counts_every_element() -> None:
    left = np.ones((3, 4), np.float32)
    right = left.copy()
    right[2, 3] = 2
    gap = metrics.difference(left, right)
    assert gap.max_abs == 1 and gap.rel_l2 == pytest.approx(12**-0.5) and gap.worst_row == pytest.approx(0.5)
    assert metrics.difference(left, left[:2]).rel_l2 == np.inf
    right[0, 0] = np.nan
    assert metrics.difference(left, right).nonfinite == 1


def test_a_prediction_counts_every_position() -> None:
    left = np.array([[0, 1, 2], [3, 0, 0]], np.float32)
    assert metrics.prediction(left, left + 5).agree == 2
    assert metrics.prediction(left, left + 5).kl == pytest.approx(0, abs=1e-12)
    other = metrics.prediction(left, left[::-1])
    assert other.agree == 0 and other.least_gap == other.widest_gap == 1 and other.kl > 0.5


def test_of_two_tokens_that_tie_exactly_each_is_right() -> None:
    tied = np.array([[2, 2, 0]], np.float32)
    assert metrics.prediction(tied, np.array([[1, 3, 0]], np.float32)).agree == 1
    assert metrics.prediction(tied, np.array([[1, 1, 3]], np.float32)).agree == 0


@pytest.mark.parametrize(
    ("left", "right", "edits"), [("", "", 0), ("row one", "row two", 3), ("abc", "ac", 1), ("", "ab", 2)]
)
def test_edit_distance(left: str, right: str, edits: int) -> None:
    assert metrics.edit_distance(left, right) == edits == metrics.edit_distance(right, left)


def kept(*tokens: int) -> np.ndarray:
    return np.array([tokens], np.int64)


def test_a_swap_inside_a_tie_is_told_from_one_outside() -> None:
    scores = {1: np.array([[5.0, 4.0, 3.00001, 3.0, 1.0]], np.float32)}
    tie = overlaps({1: kept(0, 1, 2)}, {1: kept(0, 1, 3)}, scores, 1e-4)[1]
    assert (tie.shared, tie.tied, tie.unexplained) == (2, 1, 0)
    assert tie.gap == pytest.approx(1e-5 / 3, rel=0.1)
    real = overlaps({1: kept(0, 1, 2)}, {1: kept(0, 2, 3)}, scores, 1e-4)[1]
    assert (real.shared, real.tied, real.unexplained) == (2, 0, 1)


def test_what_follows_a_difference_is_not_blamed_twice() -> None:
    shares = overlaps({1: kept(0, 1, 2), 3: kept(0, 2)}, {1: kept(0, 1, 3), 3: kept(0, 3)}, {}, 1e-4)
    assert shares[1].unexplained == 1
    assert (shares[3].after, shares[3].unexplained) == (1, 0)


def test_a_lost_token_without_replacement_is_no_tie() -> None:
    scores = {1: np.array([[2.0, 1.0, 1.0]], np.float32)}
    assert overlaps({1: kept(0, 1)}, {1: kept(0)}, scores, 1e-4)[1].unexplained == 1


def test_intervals_widen_with_clusters() -> None:
    right = [True, True, False, False] * 50
    alone = intervals.accuracy(right, range(200))
    together = intervals.accuracy(sorted(right), [i // 10 for i in range(200)])
    assert alone.value == together.value == 0.5
    assert together.high - together.low > 2 * (alone.high - alone.low)
    assert intervals.accuracy([True] * 20, range(20)).low > 0.8


def test_retention_is_paired() -> None:
    full = [True] * 90 + [False] * 10
    exact = intervals.retention(full, full, range(100))
    assert exact == (1, 1, 1)
    lossy = intervals.retention([False] * 9 + full[9:], full, range(100))
    assert lossy.value == pytest.approx(0.9) and lossy.low < 0.9 < lossy.high


def test_every_tolerance_has_its_reason_and_coarser_arithmetic_is_looser() -> None:
    assert [*TABLE] == ["fp32", "fp16", "bf16", "8-bit", "4-bit"], "finest first: the coarsest of two is the later one"
    fine, middle, coarse = (TABLE[name] for name in ("fp32", "fp16", "bf16"))
    for name in vars(fine):
        assert all(len(getattr(table, name).why) > 10 for table in TABLE.values())
        a, b, c = (getattr(table, name).value for table in (fine, middle, coarse))
        assert a < b < c or a > b > c
    assert tolerances("fp32", "fp16") is TABLE["fp16"]
