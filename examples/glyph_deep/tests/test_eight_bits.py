"""The study of the encoder in INT8."""

from __future__ import annotations

from pathlib import Path

import pytest
from glyph_deep.studies.precision import quantised_encoder


def test_the_page_says_whether_every_ground_keeps_enough() -> None:
    """One that does not is enough to miss; grounds that were not asked are named."""
    row = {"plan": "none", "questions": 1000, "pictures": 72, "accuracy": [0.991, 0.99], "changed": [2, 1]}
    rows = [{**row, "ground": name, "retention": [0.999, 0.9956, 1.0024]} for name in ("plain", "textured")]
    text = quantised_encoder.page({"machine": "a processor", "rows": rows})
    assert "on every ground: met; the least" in text and "Not run: photographs, pages, fonts." in text
    assert "| plain | `none` | 1,000 | 72 | 0.9910 | 0.9900 | 0.999 (0.996 to 1.002) | 2 | 1 |" in text
    rows[1]["retention"] = [0.98, 0.97, 0.99]
    text = quantised_encoder.page({"machine": "a processor", "rows": rows})
    assert "on every ground: **missed**; the least, `none` on textured, keeps 0.980." in text


def test_won_and_lost_answers_are_counted_apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As many of each leave the accuracy as it was, and only grounds asked for are asked."""
    right = {"none": [True, True, False, True], "none_int8": [True, False, True, True]}
    monkeypatch.setattr(quantised_encoder, "PLANS", ("none",))
    monkeypatch.setattr(quantised_encoder, "bundle_of", lambda which, folder: folder)
    asked: list[str] = []

    def verdicts(store: object, bundle: Path, ground: str, plan: str, some: list[object]) -> object:
        asked.append(f"{ground} {plan}")
        return quantised_encoder.np.array(right[plan])

    monkeypatch.setattr(quantised_encoder, "verdicts", verdicts)
    (row,) = quantised_encoder.measure(tmp_path, 4, ["plain"])
    assert asked == ["plain none", "plain none_int8"]
    assert row["accuracy"] == [0.75, 0.75] and row["changed"] == [1, 1] and row["retention"][0] == 1
