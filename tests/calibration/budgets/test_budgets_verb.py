"""``plan --data``: a search on the bundled model from the outside, what it writes, goes on with and refuses."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from luvc_export.calibration.ablation.evaluator import PlanEvaluator
from luvc_export.calibration.budgets import freezing, part, run, search, space
from luvc_export.core.plan import Plan

Cli = Callable[..., tuple[int, str, str]]


SMALL = ("--data", "glyph", "--count", 56, "--retention", 0.7, "--merge-keep", 1)


@pytest.fixture
def coarse(monkeypatch: pytest.MonkeyPatch) -> None:
    """Large steps alone: so few questions carry no finer ones, and it is quicker. A few order the layers."""
    monkeypatch.setattr(search, "STEPS", ((2, 0.7),))
    monkeypatch.setattr(freezing, "SAMPLES", 8)


@pytest.mark.slow(beside="calibration/budgets/test_budgets_verb.py::test_a_search_for_a_speed")
def test_a_search_reports_saves_and_goes_on(
    plan: Cli, coarse: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, file, some = tmp_path / "search", tmp_path / "plan.json", space.candidates(None, None)[::4]
    monkeypatch.setattr(run, "candidates", lambda *of, **more: some)
    code, out, err = plan(*SMALL, "--save", folder, "-o", file, "--json")
    assert code == 0, err
    data = json.loads(out)
    saved = Plan.from_json(json.loads(file.read_text()))
    assert saved == Plan.from_json(data["plan"]) and saved.keep == tuple(data["held_out"]["keep"])
    assert saved.keep[data["horizon"] :] == (0,) * (saved.layers - data["horizon"])
    assert data["calibration"]["holds"] and data["held_out"]["agreement"][0] >= 0.7 and data["passed"]
    assert data["calibration"]["asked"] + data["held_out"]["asked"] == 56
    assert {item["default"] for item in data["compared"]} == {"thirds", "even", "safe"}
    assert len(data["settings"]) == len(some) == 2 and saved.llm.method.name == data["settings"][0]["score"]
    assert sorted(layer for layer, _ in data["freezing"]) == list(range(min(data["horizon"], saved.layers - 1)))
    assert {*saved.llm.kv_only} <= {layer for layer, _ in data["freezing"]}
    names = {"md", "json", "-horizon.png", "-frontier.png", "-measurements.json"}
    assert {path.name.removeprefix("budgets").removeprefix(".") for path in folder.iterdir()} == names
    page = (folder / "budgets.md").read_text()
    assert f"--save {folder}" in page and " ".join(map(str, saved.keep)) in page
    with Image.open(folder / "budgets-frontier.png") as picture:
        assert picture.width > 500

    def again(*_: object) -> list[bool]:
        raise AssertionError("asked again")

    monkeypatch.setattr(PlanEvaluator, "right", again)
    code, out, err = plan(*SMALL, "--save", folder)
    assert code == 0, err
    assert "Chosen" in out and "held-out part" in out


def test_a_search_for_a_speed(plan: Cli, coarse: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(search, "FAST", ((1, 0.5),))
    small = ("--data", "glyph", "--count", 28, "--merge-keep", 1, "--score", "norm", "--speedup", 2)
    code, out, err = plan(*small, "--save", tmp_path / "search", "-o", tmp_path / "plan.json", "--json")
    assert code == 0, err
    data = json.loads(out)
    assert data["uncompressed_flops"] >= 2 * data["calibration"]["flops"] and data["speedup"] == 2
    page = (tmp_path / "search" / "budgets.md").read_text()
    assert "what was asked for is 2x" in page and "Horizon" not in page and "bar" not in page
    assert Plan.from_json(json.loads((tmp_path / "plan.json").read_text())).llm.method.name == "norm"


def test_a_calibration_part_that_lies_is_caught_on_the_held_out_part(
    plan: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    honest = part.Part.agrees

    def lie(self: part.Part, plan: Plan, some: range) -> list[bool]:
        return [True] * len(some) if self.name == "calibration" else honest(self, plan, some)

    monkeypatch.setattr(part.Part, "agrees", lie)
    code, out, err = plan(*SMALL, "--save", tmp_path / "search", "-o", tmp_path / "plan.json")
    assert code == 1 and "does not hold on the held-out part" in err and "at least 0.7" in err
    assert "Traceback" not in err and not (tmp_path / "plan.json").exists()
    assert "does NOT hold" in out and "does NOT hold" in (tmp_path / "search" / "budgets.md").read_text()


@pytest.mark.parametrize(
    ("arguments", "texts"),
    [
        (["--retention", 0.9], ["belong to a search", "--retention", "give --data too"]),
        (["--data", "glyph", "--plan", "even"], ["searches the budgets itself", "--plan"]),
        (["--data", "glyph", "--kv-only", "1"], ["searches the budgets itself", "--kv-only"]),
        (["--data", "glyph", "--speedup", 2, "--retention", 0.9], ["a search is for a speed or a retention"]),
        (["--data", "glyph", "--count", 28, "--speedup", 1], ["no plan is searched for such a speed", "more than 1"]),
        (["--data", "glyph", "--steps", 4], ["--steps is for a score that chooses in rounds", "give --score too"]),
        (["--no-freeze"], ["belong to a search", "--no-freeze"]),
        (["--data", "glyph", "--count", 100], ["too few questions", "the lower bound would be 0.8", "--count"]),
        (["--data", "glyph", "--count", 70, "--retention", 1.5], ["between 0 and 1", "--retention"]),
        (["--data", "glyph", "--count", 70, "--held-out", 0], ["between 0 and 1", "--held-out"]),
        (["--data", "glyf"], ["no such calibration set", "did you mean 'glyph'"]),
        (["--data", "{empty}"], ["the calibration set is empty"]),
        (["--data", "{alike}", "--prompt", "what?"], ["all pictures of the calibration set are identical"]),
        (["--data", "{broken}", "--prompt", "what?"], ["broken.png"]),
    ],
    ids=str,
)
def test_a_wrong_set_is_refused_and_nothing_is_written(
    plan: Cli, tmp_path: Path, arguments: list[object], texts: list[str]
) -> None:
    picture = np.random.default_rng(0).integers(0, 256, (40, 40, 3), np.uint8)
    for name in ("empty", "alike", "broken"):
        (tmp_path / name).mkdir()
    for name in ("alike/a.png", "alike/b.png", "broken/a.png", "broken/broken.png"):
        Image.fromarray(picture).save(tmp_path / name)
    whole = (tmp_path / "broken" / "broken.png").read_bytes()
    (tmp_path / "broken" / "broken.png").write_bytes(whole[: len(whole) // 2])
    written = [
        str(argument).format(**{n: tmp_path / n for n in ("empty", "alike", "broken")}) for argument in arguments
    ]
    extra = ["--save", tmp_path / "search"] if "--data" in written else []
    code, _, err = plan(*written, *extra, "-o", tmp_path / "plan.json")
    assert code == 2 and all(text in err for text in texts), err
    assert "Traceback" not in err and not (tmp_path / "search").exists() and not (tmp_path / "plan.json").exists()
