from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from installed import installed
from PIL import Image
from typer.testing import CliRunner

from luvc_export.bundle.folder import Bundle
from luvc_export.calibration import runners
from luvc_export.calibration.cases import Case, read_jsonl
from luvc_export.calibration.parity import plots
from luvc_export.calibration.parity.run import open_pair, parity
from luvc_export.calibration.runners import open_bundle
from luvc_export.calibration.tasks import find
from luvc_export.cli import app
from luvc_export.demo import CHECKPOINT, IMAGE_SIZE
from luvc_export.errors import UsageError
from luvc_export.export.checkpoint import Checkpoint
from luvc_export.pipeline import make_plan
from luvc_export.runtime.prompt.case_lines import FileCase


@pytest.mark.parametrize("pair", [("hf", "none"), ("torch", "thirds")], ids="-".join)
def test_the_bundle_agrees_at_every_level(demo_bundle: Bundle, pair: tuple[str, str], cases: Sequence[Case]) -> None:
    left, right = open_pair(f"{pair[0]}:demo", f"{demo_bundle.folder}#{pair[1]}", IMAGE_SIZE, threads=1)
    task = find("glyph")
    result = parity(left, right, cases, observe=4, longest=task.longest, stops=task.stops)
    assert result.passed, result.lines()
    names = [f"layer {layer} {part}" for layer in range(left.plan.layers) for part in ("in", "key", "value")]
    assert [step.tensor for step in result.steps] == ["vision", *names, "logits"]
    if pair[0] == "torch":
        kept = [item.observe(cases[:1])[0].kept for item in (left, right)]
        changed = {layer: indices.copy() for layer, indices in kept[0].items()}
        last = max(changed)
        changed[last][0] = np.sort(kept[0][min(changed)][0][: changed[last].shape[1]])
        forced = [item.observe(cases[:1], [changed])[0].tensors["logits"] for item in (left, right)]
        np.testing.assert_allclose(*forced, atol=1e-4)


@pytest.mark.parametrize("narrow_bundle", ["bf16"], indirect=True)
def test_a_bundle_in_bf16_is_compared_where_it_runs(narrow_bundle: Bundle) -> None:
    message = r"ONNX Runtime computes nothing in bf16 on a CPU(.|\n)*fix: compare openvino:"
    with pytest.raises(UsageError, match=message):
        open_pair("torch:demo", f"{narrow_bundle.folder}#thirds", IMAGE_SIZE)


def test_the_command_writes_a_page_and_json(demo_bundle: Bundle, tmp_path: Path, cases: Sequence[Case]) -> None:
    answers = open_pair("torch:demo", f"{demo_bundle.folder}#thirds", IMAGE_SIZE)[0].answer(cases[:2], 1)
    lines = []
    for number, case in enumerate(cases[:2]):
        answer = answers[number].text
        Image.fromarray(case.images[0]).save(tmp_path / f"{number}.png")
        lines.append(json.dumps({"image": f"{number}.png", "prompt": case.prompt, "answer": answer}))
    (tmp_path / "cases.jsonl").write_text("\n".join(lines))
    page = tmp_path / "out" / "report.html"
    arguments = ["parity", "torch:demo", f"{demo_bundle.folder}#thirds", "--cases", str(tmp_path / "cases.jsonl")]
    arguments += ["--max-new-tokens", "1", "--threads", "1", "--report", str(page), "--json"]
    run = CliRunner().invoke(app, arguments)
    assert run.exit_code == 0, run.output
    data = json.loads(run.output)
    assert data["passed"] and data["retention"]["value"] == 1
    text = page.read_text()
    assert text.count("data:image/png;base64,") == 3 and "http" not in text and "<script" not in text


#: A score that somebody installed, by which every token of a picture is worth the same.
LEVEL = """
from luvc_export.export.compression.scores.base import Score


class Level(Score):
    def score(self, given):
        return given.normed[..., 0] * 0


SCORE = Level()
"""


def test_a_score_of_one_s_own_that_ties_is_named(
    checkpoint: Checkpoint, cases: Sequence[Case], compressed: Any, tmp_path: Path
) -> None:
    """And those of this package, which do not tie here, are not."""
    with installed(tmp_path, "[luvc_export.scores]\nlevel = luvc_level:SCORE", "luvc_level", LEVEL):
        notes = {}
        for score in ("level", "norm"):
            plan = make_plan(checkpoint, "thirds", image_size=IMAGE_SIZE, score=score)
            runner = compressed(plan)
            notes[score] = parity(runner, runner, cases[:2], observe=2, longest=1).to_json()["notes"]
    assert notes["norm"] == []
    layers = [layer for layer, _, _ in plan.chooses]
    assert len(notes["level"]) == len(layers)
    for layer, note in zip(layers, notes["level"], strict=True):
        assert f"the score 'level' ties: before layer {layer} " in note and "in 2 of 2 cases" in note


def test_a_spoilt_candidate_exits_with_1(
    tmp_path: Path, cases: Sequence[Case], monkeypatch: pytest.MonkeyPatch, reference: Any
) -> None:
    monkeypatch.setattr(
        "luvc_export.calibration.parity.run._plan", lambda name, checkpoint, size, sharing: reference.plan
    )
    honest = runners.open_torch

    def spoilt(*args: Any, **kwargs: Any) -> Any:
        runner = honest(*args, **kwargs)
        run = runner.calls.decode
        spoilt.turn = not spoilt.turn  # type: ignore[attr-defined]
        if spoilt.turn:  # type: ignore[attr-defined]
            runner.calls.decode = lambda feeds, *rest: run({**feeds, "position_ids": feeds["position_ids"] + 1}, *rest)
        return runner

    spoilt.turn = True  # type: ignore[attr-defined]
    monkeypatch.setattr(runners, "open_torch", spoilt)
    arguments = ["parity", "torch:demo", "torch:demo", "--task", "glyph", "--count", "2", "--observe", "2"]
    run = CliRunner().invoke(app, arguments)
    assert run.exit_code == 1
    assert "FAILED | tensors | relative L2" in run.output
    assert "first departs | layer 0 key" in run.output


def test_a_task_s_other_split_is_asked_by_name() -> None:
    usual, harder = find("glyph"), find("glyph", "harder")
    first, second = (next(task.cases(task.report[0], 1, task.report[1])) for task in (usual, harder))
    assert harder.report == ("harder", usual.report[1]) and not (first.images[0] == second.images[0]).all()
    pair = ["parity", "torch:demo", "torch:demo"]
    run = CliRunner().invoke(app, [*pair, "--task", "glyph", "--split", "hardr"])
    assert isinstance(run.exception, UsageError) and "did you mean 'harder'" in str(run.exception)
    run = CliRunner().invoke(app, [*pair, "--cases", "cases.jsonl", "--split", "harder"])
    assert isinstance(run.exception, UsageError) and "only a task has splits" in str(run.exception)


def test_two_plans_are_judged_by_retention_alone(reference: Any, checkpoint: Checkpoint, cases: Sequence[Case]) -> None:
    left = runners.open_huggingface(checkpoint, reference.prompting.manifest)
    result = parity(left, reference, cases, observe=2, longest=1)
    assert [gate.name for gate in result.gates] == ["elements that are not finite", "retention"]
    assert any("plans differ" in line for line in result.lines())
    assert "Answers that differ" in plots.page(result)


@pytest.mark.parametrize(
    ("text", "spec"),
    [
        ("demo", ("hf", "CHECKPOINT")),
        ("torch:a/b#thirds", ("torch", "a/b", "thirds")),
        ("onnx:x#", ("onnx", "x")),
        ("onnx:x#p@t", ("onnx", "x", "p@t")),
        ("trt:x", ("trt", "x")),
        ("trt:demo#p@orin", ("trt", "demo", "p", "orin")),
        ("trt:x#@orin", ("trt", "x", None, "orin")),
        ("C:/models/x", ("hf", "C:/models/x")),
    ],
)
def test_descriptions(text: str, spec: Any) -> None:
    model = str(CHECKPOINT) if spec[1] == "CHECKPOINT" else spec[1]
    assert runners.parse(text) == runners.Spec(spec[0], model, *spec[2:])


def test_an_unknown_kind_suggests_one() -> None:
    with pytest.raises(UsageError, match="did you mean 'torch'"):
        runners.parse("torhc:demo")


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", "not JSON"),
        ('{"image": "a.png"}', "needs a prompt"),
        ('{"prompt": "x", "imgae": "a.png"}', "unknown"),
        ('{"prompt": "x", "image": "a.png"}', "not there"),
        ("", "no case"),
    ],
)
def test_bad_cases_are_explained(tmp_path: Path, line: str, message: str) -> None:
    path = tmp_path / "cases.jsonl"
    path.write_text(line)
    with pytest.raises(UsageError, match=message):
        read_jsonl(path)


@pytest.mark.parametrize("words", [4000, 60_000])
def test_a_prompt_that_does_not_fit_is_refused_as_run_refuses_it(demo_bundle: Bundle, words: int) -> None:
    """It passed all gates, on graphs that take any length; 60,000 letters took 4 GB."""
    runner = open_bundle(str(demo_bundle.folder), "even", 1)
    long = FileCase((), "a" * words, None)
    for ask in (lambda: runner.observe([long]), lambda: runner.answer([long], 4)):
        with pytest.raises(UsageError, match="the prompt is longer than the"):
            ask()
