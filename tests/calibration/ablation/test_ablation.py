from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from flat_plans import flat_plan, replan

from luvc_export.bundle.manifest import ImageInput
from luvc_export.calibration import runners
from luvc_export.calibration.ablation import variants
from luvc_export.calibration.ablation.__main__ import main
from luvc_export.calibration.ablation.evaluator import PlanEvaluator
from luvc_export.calibration.ablation.store import Store, pack, unpack
from luvc_export.calibration.ablation.variants import Shapes
from luvc_export.calibration.tasks import Task, find
from luvc_export.core.plan import Plan
from luvc_export.errors import MachineError, UsageError
from luvc_export.export.checkpoint import Checkpoint


@pytest.fixture(scope="module")
def task() -> Task:
    return find("glyph")


@pytest.fixture(scope="module")
def shapes(checkpoint: Checkpoint, task: Task) -> Shapes:
    unit = checkpoint.family.unit_pixels(checkpoint.config)
    grid = (task.image_size[0] // unit, task.image_size[1] // unit)
    return Shapes(
        grid, checkpoint.family.decoder_shape(checkpoint.config), checkpoint.family.encoder_shape(checkpoint.config)
    )


def severe(shapes: Shapes, **switches: Any) -> Plan:
    """So few tokens that some answers change."""
    keep = (shapes.units, *(shapes.units // 8,) * (shapes.llm.layers - 2), 0)
    return replan(flat_plan(shapes.grid, keep), **switches)


@pytest.mark.parametrize("switches", [{}, {"score": "fastv"}, {"score": "random"}, {"reducer": "merge"}], ids=str)
def test_the_engine_says_what_greedy_decoding_says(
    checkpoint: Checkpoint, task: Task, shapes: Shapes, switches: dict[str, Any]
) -> None:
    cases = list(task.cases(task.report[0], 12, 3))
    image = ImageInput(task.image_size, "pad", (128, 128, 128))
    plan = variants.merged(severe(shapes)) if "reducer" in switches else severe(shapes, **switches)
    runner = runners.open_torch(checkpoint, plan, image)
    answers = runner.answer(cases, task.longest)
    asked = [dataclasses.replace(case, answer=item.text) for case, item in zip(cases, answers, strict=True)]
    model = runners.load_model(checkpoint)
    ended = all(item.ended for item in answers)
    assert PlanEvaluator(checkpoint, model, asked, stops=ended and task.stops).right(plan) == [True] * len(cases)
    right = [item.text == case.answer for item, case in zip(answers, cases, strict=True)]
    if ended or not task.stops:
        assert PlanEvaluator(checkpoint, model, cases, task.stops).right(plan) == right


@pytest.mark.skipif(torch.cuda.is_available(), reason="this torch can use a GPU")
def test_a_gpu_that_torch_cannot_use_is_refused(checkpoint: Checkpoint) -> None:
    with pytest.raises(MachineError, match=r"cannot use a GPU[\s\S]*--device cuda[\s\S]*got: torch[\s\S]*CUDA"):
        runners.load_model(checkpoint, device="cuda")


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU that torch can use")
@pytest.mark.parametrize("switches", [{}, {"score": "fastv"}, {"score": "scope"}], ids=str)
def test_a_gpu_answers_as_the_cpu_does(
    checkpoint: Checkpoint, task: Task, shapes: Shapes, switches: dict[str, Any]
) -> None:
    cases, plan = list(task.cases(task.report[0], 60, 3)), severe(shapes, **switches)
    here, there = (
        PlanEvaluator(checkpoint, runners.load_model(checkpoint, device=device), cases, task.stops)
        for device in ("cpu", "cuda")
    )
    assert sum(a != b for a, b in zip(here.right(plan), there.right(plan), strict=True)) <= 1
    moved = zip(here.predictions(plan, range(8)), there.predictions(plan, range(8)), strict=True)
    assert max(float((a - b).abs().max()) for a, b in moved) < 0.02


def test_uncompressed_and_kv_only_agree(checkpoint: Checkpoint, task: Task, shapes: Shapes) -> None:
    cases = list(task.cases(task.report[0], 18, 0))
    engine = PlanEvaluator(checkpoint, runners.load_model(checkpoint), cases, task.stops)
    full = engine.right(shapes.none())
    assert engine.right(shapes.none().changed(last_layer="kv_only")) == full
    assert sum(full) >= 0.8 * len(cases)


def test_groups_compare_equal_budgets(shapes: Shapes) -> None:
    half = variants.halved(shapes, 4)
    rows = variants.methods(half, half)
    assert {name for row in rows for name in [row.name.split(",")[0]]} >= {
        "random",
        "stride",
        "v2drop",
        "dart",
        "fastv",
        "merge",
    }
    assert all(plan.keep == half.keep for row in rows for plan in row.plans if plan.llm.reducer == "prune")
    merge = rows[-1].plans[0]
    assert merge.llm.reducer == "merge" and abs(sum(merge.keep) - sum(half.keep)) < 0.15 * sum(half.keep)
    assert len(next(row for row in rows if row.name == "random").plans) == 3
    assert len(list(variants.readings(half))) == 36
    assert sum(variants.smaller(shapes, 40).grid) >= 12
    early = variants.one_shot(shapes, 20)
    assert not {"v2drop", "fastv"} & {row.name for row in variants.methods(early, half)}
    for share in (0.75, 0.5):
        assert all(
            abs(row.plans[0].keep[0] - share * shapes.units) < 0.2 * shapes.units
            for row in variants.encoder_merges(shapes, share)
        )


def test_the_search_and_the_report_share_no_picture(task: Task) -> None:
    searched, reported = (
        {image.tobytes() for case in task.cases(split[0], 60, split[1]) for image in case.images}
        for split in (task.search, task.report)
    )
    assert not searched & reported


def test_a_store_measures_once_and_only_for_the_same_model(tmp_path: Path) -> None:
    calls: list[int] = []

    def measure() -> str:
        calls.append(1)
        return pack([True, False, True])

    for _ in range(2):
        store = Store(tmp_path / "m.json", {"weights": "a"})
        assert unpack(store.of(["x"], measure), 3) == [True, False, True]
    assert len(calls) == 1
    Store(tmp_path / "m.json", {"weights": "b"}).of(["x"], measure)
    assert len(calls) == 2


@pytest.mark.parametrize("text", ["export PATH", "[]", '{"records": 1}', "[" * 9999])
def test_a_store_does_not_begin_where_something_else_lies(tmp_path: Path, text: str) -> None:
    (tmp_path / "m.json").write_text(text)
    with pytest.raises(UsageError, match=r"the file of measurements is not JSON|this is no file of measurements"):
        Store(tmp_path / "m.json", {})
    assert (tmp_path / "m.json").read_text() == text


def test_an_unknown_task_suggests_one() -> None:
    with pytest.raises(UsageError, match="did you mean 'glyph'"):
        find("glyphs")


@pytest.mark.slow(beside="calibration/ablation/test_ablation.py::test_the_engine_says_what_greedy_decoding_says")
def test_tables_and_plots_come_from_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The whole document with invented verdicts: every section is written, nothing is measured."""
    from luvc_export.calibration.ablation import run as runs
    from luvc_export.calibration.ablation import study as timing

    asked: list[Plan] = []

    def right(self: PlanEvaluator, plan: Plan) -> list[bool]:
        asked.append(plan)
        share = min(1.0, 0.5 + sum(plan.keep) / (2 * plan.units * plan.layers))
        return (np.arange(len(self.cases)) % 100 < 100 * share).tolist()

    def predictions(self: PlanEvaluator, plan: Plan, cases: range) -> list[torch.Tensor]:
        """The further up the layer, the less it matters."""
        shift = sum(plan.layers - layer for layer in plan.llm.kv_only) / 10
        return [torch.tensor([[0.0, shift]]).log_softmax(-1) for _ in cases]

    def measure(engine: PlanEvaluator, plans: Sequence[Plan], rounds: int = 0, text: int = 0) -> list[timing.Times]:
        return [timing.Times(1.0, sum(plan.keep) / 10, 1.0 + sum(plan.keep) / 10) for plan in plans]

    monkeypatch.setattr(PlanEvaluator, "right", right)
    monkeypatch.setattr(timing, "measure", measure)
    monkeypatch.setattr(PlanEvaluator, "predictions", predictions)
    data = runs.ablate(find("glyph"), tmp_path, "command", count=180, side=90, search=54)
    text = (tmp_path / "ablation.md").read_text()
    for heading in (
        "In short",
        "Horizon",
        "Half the LLM",
        "equal measured time",
        "evenly",
        "OIM",
        "A cheaper encoder",
        "At equal encoder time",
        "Last layer",
        "Past the paper: 3 times fewer prefill FLOPs",
        "Search",
    ):
        assert heading in text
    names = {"ablation.md", "ablation.json", "ablation-measurements.json"}
    names |= {f"ablation-{plot}.png" for plot in ("horizon", "budget", "time")}
    assert {path.name for path in tmp_path.iterdir()} == names
    for name in names - {"ablation.json"}:
        (tmp_path / name).unlink()
    assert main([str(tmp_path)]) == 0, "page and plots are made of the figures alone"
    assert (tmp_path / "ablation.md").read_text() == text
    assert {path.name for path in tmp_path.iterdir()} == names - {"ablation-measurements.json"}
    for plot in ("horizon", "curve"):
        monkeypatch.setattr(runs.tables, plot, lambda *of: b"drawn twice above")
    asked.clear()
    runs.ablate(find("glyph"), tmp_path, "command", count=180, side=90, search=54)
    assert asked and (tmp_path / "ablation.md").read_text() == text, "without the store everything is measured anew"
    asked.clear()
    runs.ablate(find("glyph"), tmp_path, "command", count=180, side=90, search=54)
    assert not asked, "with it nothing is"
    assert data["past"]["frozen"] == [2, 3, 4] and len(data["past"]["equal"]) == 17
    assert len(data["search"]) == 36 and len(data["main"]) == 15 and len(data["schedules"]) > 30


def test_no_figures_no_page(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(tmp_path)]) == 2
    assert "no figures to write a page from" in capsys.readouterr().err and not list(tmp_path.iterdir())
