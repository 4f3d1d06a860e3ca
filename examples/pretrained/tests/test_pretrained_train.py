"""A run that was ended goes on as if it had not been; an evaluation asks no piece twice."""

from __future__ import annotations

import argparse
import json
import math
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from pretrained import evaluate, start, texts
from pretrained.train import train

from luvc_export.errors import UsageError

TEXTS = {"docs": [("a page", "Some words that are replayed, again and again. " * 40)]}


@pytest.fixture(autouse=True)
def _few_texts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Texts of any Python."""
    monkeypatch.setattr(texts, "replayed", lambda: TEXTS)
    monkeypatch.setattr(evaluate, "held_out", lambda: {"one": "Some words. " * 150, "two": "Other things. " * 150})


def arguments(base: Path, out: Path, **changes: Any) -> argparse.Namespace:
    """Return the command line of a run of three steps."""
    usual = {"base": base, "out": out, "start": None, "share": 1.0, "steps": 3, "stop": None, "questions": 3, "rank": 2}
    rates = {"textured": 0.5, "rate": 1e-3, "decay": 0.4, "drift": 0.05, "weight": 3.0, "seed": 4}
    return argparse.Namespace(
        **{
            **usual,
            **rates,
            "report": 1,
            "save": 0.0,
            "projection_alone": False,
            "replies": None,
            "bf16": False,
            **changes,
        }
    )


def test_a_run_goes_on_where_it_was_ended(tiny: tuple[Path, Any, Any], tmp_path: Path) -> None:
    """Weights, optimiser and the weight of the KL are those of a run that was not ended; the LoRA moved."""
    train(arguments(tiny[0], tmp_path / "whole"))
    train(arguments(tiny[0], tmp_path / "ended", stop=1))
    train(arguments(tiny[0], tmp_path / "ended"))
    whole, ended = (torch.load(tmp_path / name / "state.pt") for name in ("whole", "ended"))
    assert whole["step"] == ended["step"] == 3 and whole["pressure"] == ended["pressure"]
    for name, value in whole["model"].items():
        assert torch.equal(value, ended["model"][name]), name
    assert any(value.any() for name, value in whole["model"].items() if name.startswith("b."))
    lines = [json.loads(line) for line in (tmp_path / "ended" / "log.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [1, 2, 3] and lines[0]["kl"] == 0 < lines[0]["loss"]
    assert sorted(path.name for path in (tmp_path / "ended").iterdir()) == ["log.jsonl", "state.pt"]


def test_a_control_trains_the_projection_alone(tiny: tuple[Path, Any, Any], tmp_path: Path) -> None:
    """No LoRA moves, and no text is replayed, which would not pass through what trains."""
    train(arguments(tiny[0], tmp_path, steps=1, projection_alone=True))
    state = torch.load(tmp_path / "state.pt")["model"]
    assert not any(value.any() for name, value in state.items() if name.startswith("b."))
    assert json.loads((tmp_path / "log.jsonl").read_text())["kl"] == 0


def test_a_run_that_may_drift_without_end_replays_nothing(tiny: tuple[Path, Any, Any], tmp_path: Path) -> None:
    """Its LoRA moves, and no text was read."""
    train(arguments(tiny[0], tmp_path, drift=math.inf))
    assert any(
        value.any() for name, value in torch.load(tmp_path / "state.pt")["model"].items() if name.startswith("b.")
    )
    assert [json.loads(line)["kl"] for line in (tmp_path / "log.jsonl").read_text().splitlines()] == [0, 0, 0]


def run(monkeypatch: pytest.MonkeyPatch, module: Any, *words: object) -> None:
    """Run a module's command."""
    monkeypatch.setattr(sys, "argv", [module.__name__, *map(str, words)])
    module.main()


@pytest.mark.slow(beside="../examples/pretrained/tests/test_pretrained_train.py::test_a_run_goes_on_where_it_was_ended")
def test_an_evaluation_goes_on_where_it_was_ended(
    tiny: tuple[Path, Any, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Pieces are kept; weights that did not train change no perplexity; other weights are refused."""
    train(arguments(tiny[0], tmp_path, steps=1, projection_alone=True))
    small, out = tmp_path / "small.safetensors", tmp_path / "evaluation.json"
    run(monkeypatch, start, tmp_path / "state.pt", small)
    assert small.stat().st_size < 2e6
    monkeypatch.setattr(evaluate, "GROUNDS", ("plain", "textured"))  # photographs come with packages of their own
    words = (tiny[0], small, "--out", out, "--pictures", 1)
    run(monkeypatch, evaluate, *words, "--minutes", 0.02)
    first = json.loads(out.read_text())["pieces"]
    run(monkeypatch, evaluate, *words)
    done = json.loads(out.read_text())
    assert first.items() <= done["pieces"].items() and len(done["pieces"]) > 8
    capsys.readouterr()
    monkeypatch.setattr(evaluate.Evaluation, "nats", None)
    run(monkeypatch, evaluate, *words)
    summary = json.loads(capsys.readouterr().out)
    assert summary == done["summary"] and set(summary["perplexity"]) == {"one", "two"}
    assert all(row["ratio"] == 1.0 for row in summary["perplexity"].values())
    assert summary["facts"][1] == 50 and set(summary["answers"]) == set(evaluate.GROUNDS)
    small.write_bytes(small.read_bytes() + b" ")
    with pytest.raises(UsageError, match=r"other weights[\s\S]*another --out"):
        run(monkeypatch, evaluate, *words)
