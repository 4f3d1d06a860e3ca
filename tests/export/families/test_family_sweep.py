"""A share of the sweep of random configs, whose whole is in docs/results/config_sweep.json, and its page."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
from family_checkpoints import quick
from slow_cases import slow_but

ROOT = Path(__file__).resolve().parents[3]
sys.path.append(str(ROOT / "benchmarks/measure/matrix"))

import config_sweep  # noqa: E402

FOUND = json.loads(config_sweep.FIGURES.read_text(encoding="utf-8"))


@pytest.mark.parametrize("name", slow_but(quick(), config_sweep.DRAWN))
def test_some_configs_are_still_equal_or_refused(name: str) -> None:
    refused = {number for numbers in FOUND[name]["refused"].values() for number in numbers}
    for number in (0, 1, *sorted(refused)[:1]):
        record = config_sweep.outcome(name, number, raising=True)
        if record is not None:  # else transformers has no such model
            assert record["outcome"] == ("refused" if number in refused else "equal"), record


def test_the_page_is_its_figures_and_none_is_a_fault() -> None:
    assert config_sweep.PAGE.read_text(encoding="utf-8") == config_sweep.page(FOUND)
    assert {*FOUND} == {*config_sweep.DRAWN}
    for one in FOUND.values():
        assert config_sweep.legal(one) >= 300 and not one["differs"] and not one["crashed"]


def test_what_is_not_equal_would_be_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    real = config_sweep.harness.logits
    monkeypatch.setattr(config_sweep.harness, "logits", lambda *arguments: real(*arguments) * 1.001)
    record = config_sweep.outcome("llava", 0) or {}
    assert record["outcome"] == "differs"
    one = {"equal": 0, "worst": 0.0, "refused": {}, "differs": {}, "crashed": {}}
    config_sweep.add(one, record)
    assert one["differs"] == {"0": record["why"]}
