"""Equal times are read off between measured points, and nowhere else."""

from __future__ import annotations

import pytest

from luvc_export.calibration.ablation import encoder_section
from luvc_export.calibration.ablation.study import Row, Times, from_plain, plain
from luvc_export.calibration.intervals import Interval
from luvc_export.errors import BundleError


def row(name: str, remark: str, vision: float, ttft: float, kept: float) -> Row:
    every = Interval(kept, kept - 0.1, kept + 0.2)
    return Row(name, remark, (1,), 1.0, 10, every, every, {}, 1.0, 1, Times(vision, ttft - vision, ttft))


ROWS = [
    row("uncompressed", "", 12.0, 20.0, 1.0),
    row("restore, 0.8", "after block 3", 10.0, 18.0, 0.9),
    row("restore, 0.5", "after block 3", 8.0, 16.0, 0.5),
    row("restore, 0.5", "after block 0", 9.0, 17.0, 0.1),
    row("restore, 0.8, residual", "after block 0", 10.0, 18.0, 0.8),
    row("OIM in windows, 9 of 16", "after block 2", 9.0, 15.0, 0.3),
    row("smaller picture, 0.75", "7x7 units", 9.0, 12.0, 0.4),
    row("smaller picture, 0.5", "6x6 units", 6.0, 8.0, 0.2),
]


def test_rows_come_back_from_json_as_they_were() -> None:
    data = plain({"cheaper": ROWS, "past": {"frozen": [1, 2]}})
    assert data["cheaper"][0]["times"] == {"vision": 12.0, "prefill": 8.0, "ttft": 20.0}
    assert from_plain(data) == {"cheaper": ROWS, "past": {"frozen": [1, 2]}}
    data["cheaper"][0]["accuracy"] = [1.0, "high", 1.0]
    with pytest.raises(BundleError, match=r"wrong type(.|\n)*row: accuracy"):
        from_plain(data)


def test_shares_of_a_method_are_one_curve() -> None:
    shares = {name: [item.name for item in curve[1:]] for name, curve in encoder_section.curves(ROWS).items()}
    assert shares["restore, after block 3"] == ["restore, 0.8", "restore, 0.5"]
    assert shares["restore, residual, after block 0"] == ["restore, 0.8, residual"]
    assert shares["OIM in windows, after block 2"] == ["OIM in windows, 9 of 16"]
    assert shares["smaller picture"] == ["smaller picture, 0.75", "smaller picture, 0.5"] and len(shares) == 5


def test_between_two_points_and_their_ends() -> None:
    curve = encoder_section.curves(ROWS)["restore, after block 3"]
    got = encoder_section.at_time(curve, "vision", 9.0)
    assert got is not None and got == pytest.approx((0.7, 0.6, 0.9))
    assert encoder_section.at_time(curve, "ttft", 18.0) == pytest.approx((0.9, 0.8, 1.1))
    assert encoder_section.at_time(curve, "vision", 7.9) is None
    assert encoder_section.at_time(curve, "vision", 12.1) is None


def test_the_table_leaves_out_what_is_nowhere_so_fast() -> None:
    lines = encoder_section.table(ROWS, "ttft").splitlines()
    assert lines[0].startswith("| method | 17.4 ms (1.15x)")
    methods = [line.split(" |")[0][2:] for line in lines[2:]]
    assert methods[0] == "smaller picture" and set(methods) == {
        "OIM in windows, after block 2",
        "restore, after block 3",
        "smaller picture",
        "restore, after block 0",
    }
    assert lines[-1].count("not reached") == 3
    assert encoder_section.lines({}) == [] and "## A cheaper encoder" in encoder_section.lines({"cheaper": ROWS})
