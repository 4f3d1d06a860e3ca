"""What pages count and list is what the code has."""

from __future__ import annotations

import re
from pathlib import Path

import luvc_export
from luvc_export.engines import targets
from luvc_export.export.surgeon import pass_list
from luvc_export.runtime.cuda import driver

DOCS = Path(luvc_export.__file__).resolve().parents[1] / "docs"


def text(page: str) -> str:
    return (DOCS / page).read_text(encoding="utf-8")


def test_the_cuda_functions_are_counted() -> None:
    (count,) = re.findall(r"^(\d+) functions of `libcuda\.so\.1`", text("trt-runtime.md"), re.M)
    assert int(count) == len(driver.SIGNATURES)


def test_the_passes_are_listed_in_their_order() -> None:
    table = text("surgery.md").split("## The passes, in order")[1].split("\n\n")[1]
    rows = [re.findall(r"`(\w+)`", line.split("|")[1]) for line in table.splitlines()[2:]]
    assert [name for row in rows for name in row] == [item.__name__.rpartition(".")[2] for item in pass_list()]


def test_what_the_page_says_of_jetpack_6_2_is_in_the_records() -> None:
    assert "JetPack 6.2 takes `int8` only" in " ".join(text("calibration.md").split())
    for name in targets.names():
        target = targets.find(name)
        if target.device.jetpack == "6.2":
            assert target.quantised == ("int8",) and target.spec.opset == 20
