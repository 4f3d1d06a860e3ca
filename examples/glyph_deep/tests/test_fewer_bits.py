"""The study of plans in INT8."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from glyph_deep.studies.precision import fewer_bits

from luvc_export.calibration.runners import open_bundle
from luvc_export.core.named_plans import NAMED
from luvc_export.demo.questions import GlyphCase

RIGHT = {"none": [True, True, False, True], "none_int8": [True, False, True, True], "safe": [True, True, False, False]}
HERE = {"glyph_deep": Path()}
GROUNDS = fewer_bits.GROUNDS["glyph_deep"]


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What is asked, where four questions of every ground have answers that are known."""
    calls: list[str] = []

    def verdicts(store: object, bundle: Path, ground: str, plan: str, some: list[GlyphCase], *engine: Any) -> object:
        calls.append(" ".join([bundle.name, ground, plan, *(one.__name__ for one in engine if one is not open_bundle)]))
        return np.array(RIGHT.get(plan, RIGHT["none"]))

    four = [GlyphCase((), "Which digit?", "7", "digit", picture) for picture in range(4)]
    monkeypatch.setattr(fewer_bits, "asked", lambda model, ground, count, search: four)
    monkeypatch.setattr(fewer_bits, "bundle_of", lambda which, part, folder, *_: folder / f"{which}-{part}")
    monkeypatch.setattr(fewer_bits, "verdicts", verdicts)
    return calls


def test_the_page_says_whether_every_ground_keeps_enough() -> None:
    """One that does not is enough to miss; grounds that were not asked are named."""
    row = {"part": "encoder", "model": "glyph_deep", "plan": "none", "questions": 1000}
    row |= {"pictures": 72, "fp32": 0.991, "changed": [2, 1], "accuracy": [0.99, 0.98, 1.0]}
    row["kept"] = [0.999, 0.9956, 1.0024]
    rows = [{**row, "ground": name, "retention": [0.999, 0.9956, 1.0024]} for name in ("plain", "textured")]
    text = fewer_bits.page({"machine": "a processor", "rows": rows})
    assert (
        "on every ground: met; the least" in text
        and "Not run: glyph_deep, photographs; glyph_deep, pages; glyph_deep, fonts; pretrained" in text
    )
    line = "| encoder | glyph_deep, plain | `none` | 1,000 | 72 | 0.9910 | 0.9900 |"
    assert f"{line} 0.999 (0.996 to 1.002) | 0.999 (0.996 to 1.002) | 2 | 1 |" in text
    rows[1]["retention"] = [0.98, 0.97, 0.99]
    text = fewer_bits.page({"machine": "a processor", "rows": rows})
    assert "on every ground: **missed**; the least, `none` on glyph_deep, textured (encoder), keeps 0.980." in text


def test_won_and_lost_answers_are_counted_apart(
    asked: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As many of each leave the accuracy as it was, and only grounds asked for are asked."""
    (row,) = fewer_bits.measure(tmp_path, 4, ["plain"], ["none"], HERE, ["whole"])
    assert asked == [f"digits-whole plain {plan}" for plan in ("none", "none", "none_int8")]
    assert row["fp32"] == row["accuracy"][0] == 0.75 and row["changed"] == [1, 1] and row["retention"][0] == 1


@pytest.mark.parametrize(
    ("part", "coded"),
    [
        ("weights in AWQ", "digits-weights in AWQ plain none"),
        ("weights in 8 bits, OpenVINO", "digits-weights in 8 bits, OpenVINO plain none_quantized open_openvino"),
        ("weights in 4 bits", "digits-weights in 4 bits plain none_q4"),
        ("caches in 8 bits", "digits-caches in 8 bits plain none_kv8"),
    ],
)
def test_each_part_is_asked_of_its_plan_and_engine(part: str, coded: str, asked: list[str], tmp_path: Path) -> None:
    """Codes of a checkpoint are compared with the bundle in fp32, of which they are no plan."""
    fewer_bits.measure(tmp_path, 4, ["plain"], ["none"], HERE, [part])
    assert asked[-1] == coded and asked[0] == f"digits-{'whole' if 'AWQ' in part else part} plain none"


def test_figures_are_held_to_the_uncompressed_model(
    asked: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A named plan's row in INT8 has the costs of its row in fp32; a plan with a ground that is missing has none."""
    monkeypatch.setitem(RIGHT, "safe_int8", RIGHT["safe"])
    rows = fewer_bits.measure(tmp_path, 4, GROUNDS, ["safe"], HERE, ["whole"])
    record = fewer_bits.figured(rows)
    new = [row for row in record["rows"] if (row["plan"], row["model"]) == ("safe int8", "glyph_deep")]
    old = {row["ground"]: row for row in record["rows"] if (row["plan"], row["model"]) == ("safe", "glyph_deep")}
    assert {row["ground"] for row in new} == {*GROUNDS} and asked
    for row in new:
        assert row["retention"][0] == round(2 / 3, 4) and row["questions"] == 4 and row["key"] == NAMED["safe"].key
        assert row["flops"] == old[row["ground"]]["flops"] and row["accuracy"][0] == 0.5
    few = [row for row in fewer_bits.figured(rows[1:])["rows"] if row["plan"] == "safe int8" and row["questions"] == 4]
    assert not few
