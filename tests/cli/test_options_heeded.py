"""Every option does what it says or is refused: none is taken and forgotten."""

from __future__ import annotations

import json
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from cli_words import Cli

from luvc_export.bundle.manifest import Weights
from luvc_export.cli.bundled import at_size
from luvc_export.cli.commands import demo
from luvc_export.core import tasks
from luvc_export.core.plan import Plan
from luvc_export.demo import CHECKPOINT, IMAGE_SIZE
from luvc_export.errors import PlanError, UsageError
from luvc_export.export.checkpoint import open_checkpoint
from luvc_export.pipeline import exporting, make_plan, make_plans
from luvc_export.pipeline.export_options import ExportOptions

SIZE = ("--image-size", f"{IMAGE_SIZE[0]}x{IMAGE_SIZE[1]}")


@pytest.fixture
def plan_file(tmp_path: Path) -> Path:
    path = tmp_path / "mine.json"
    path.write_text(json.dumps(make_plan(str(CHECKPOINT), "thirds", image_size=IMAGE_SIZE).to_json()))
    return path


@pytest.mark.parametrize(
    ("words", "refusal"),
    [
        (("--plan", "none", "--speedup", 2), "--speedup solves the budgets itself"),
        (("--plan", "thirds", "--speedup", 1.5), "--speedup solves the budgets itself"),
        (("--plan", "even", "--kv-mib", 20), "--kv-mib solves the budgets itself"),
        (("--plan", "80,60,40,20,10,0", "--speedup", 2), "--speedup solves the budgets itself"),
        (("--plan", "FILE", "--speedup", 2), "--speedup solves the budgets itself"),
        (("--plan", "FILE", "--score", "norm"), "a plan file says this itself"),
        (("--plan", "FILE", "--merge-keep", 1), "a plan file says this itself"),
        (("--plan", "FILE", "--joint-frames", 4), "fixed budgets are for one image or for those that share them"),
        (("--plan", "staged", "--turns", 2), "--turns 2 with --plan safe, lean or striped"),
        (("--plan", "none", "--rho", 0.2), "compresses nothing"),
        (("--plan", "none", "--score-option", "rho=0.2"), "compresses nothing"),
        (("--score-option", "rho"), "NAME=VALUE, such as rho=0.1"),
        (("--score", "scope", "--score-option", "rho=much"), "cannot read the setting"),
        (("--rho", 0.2), "score 'maxmin' has no such setting"),
        (("--rho", 0.2, "--score-option", "rho=0.2"), "say each setting once"),
        (("--score", "dart", "--rho", 0.2), "score 'dart' has no such setting"),
        (("--score", "scope", "--steps", 65), "steps: got 65, expected a whole number from 0 to 64"),
        (("--plan", "staged", "--rho", 2), "rho: got 2.0, expected above 0 to 1"),
        (("--plan", "FILE", "--quota", "uniform"), "a plan file says this itself"),
        (("--quota", "uniform"), "quota: 'uniform' divides a budget among images that share it"),
        (("--quota", "fair", "--joint-frames", 4), "quota: got 'fair', expected one of none, uniform, spread, v-cast"),
        (("--joint-tiles", "2x2"), "does not cut pictures into tiles"),
        (("--joint-tiles", "two"), "--joint-tiles"),
        (("--joint-tiles", "2x2", "--joint-frames", 4), "a plan is for frames or for tiles"),
        (("--data", "glyph", "--joint-tiles", "2x2"), "--data searches the budgets itself"),
        (("--data", "glyph", "--quota", "spread"), "--data searches the budgets itself"),
        (("--score", "foo"), "unknown score"),
        (("--score", "residul"), "did you mean 'residual'"),
        (("--speedup", 100), "--speedup cannot be met"),
        (("--kv-mib", 0.001), "--kv-mib cannot be met"),
    ],
)
def test_plan(cli: Cli, tmp_path: Path, plan_file: Path, words: tuple[Any, ...], refusal: str) -> None:
    output = tmp_path / "new.json"
    code, _, err = cli("plan", CHECKPOINT, *SIZE, *[plan_file if w == "FILE" else w for w in words], "-o", output)
    assert code == 2 and refusal in err and not output.exists(), err


@pytest.mark.parametrize("goal", [("--speedup", 100), ("--kv-mib", 0.001)])
def test_an_unreachable_goal_names_the_best_one_which_is_met(cli: Cli, goal: tuple[str, float]) -> None:
    err = cli("plan", CHECKPOINT, *SIZE, *goal)[2]
    best = re.search(rf"fix: {goal[0]} ([\d.]+),", err)
    assert best, err
    code, out, err = cli("plan", CHECKPOINT, *SIZE, goal[0], best[1], "--json")
    assert (
        code == 0 and sum(json.loads(out)["plan"]["llm"]["keep"]) <= 3 * Plan.from_json(json.loads(out)["plan"]).layers
    ), err
    further = float(best[1]) * (1.02 if goal[0] == "--speedup" else 0.98)
    assert cli("plan", CHECKPOINT, *SIZE, goal[0], further)[0] == 2


@pytest.mark.parametrize("plan", [(), ("--plan", "none"), ("--plan", "FILE")])
def test_plan_takes_an_image_size_whole_or_not(cli: Cli, plan: tuple[str, ...], plan_file: Path) -> None:
    """225x225 was planned as 224x224."""
    words = [plan_file if word == "FILE" else word for word in plan]
    code, _, err = cli("plan", CHECKPOINT, "--image-size", "225x225", *words)
    assert code == 2 and "multiples of 28" in err and "--image-size 224x224" in err
    if plan == ("--plan", "FILE"):
        code, _, err = cli("plan", CHECKPOINT, "--image-size", "224x224", *words)
        assert code == 2 and "the plan is for another image size" in err


@pytest.mark.parametrize(
    ("words", "refusal"),
    [
        (("--plan", "thirds", "--speedup", 2), "solve the budgets themselves"),
        (("--plan", "none", "--plan", "even", "--kv-mib", 2), "solve the budgets themselves"),
        (("--plan", "none", "--score", "norm"), "compresses nothing"),
        (("--plan", "FILE", "--plan", "none", "--axis", "channel"), "compresses nothing"),
        (("--plan", "FILE", "--rho", 0.3), "a plan file says this itself"),
        (("--quota", "v-cast"), "quota: 'v-cast' divides a budget among images that share it"),
        (("--score", "foo"), "unknown score"),
    ],
)
def test_export(cli: Cli, tmp_path: Path, plan_file: Path, words: tuple[Any, ...], refusal: str) -> None:
    arguments = [plan_file if word == "FILE" else word for word in words]
    code, _, err = cli("export", CHECKPOINT, *SIZE, "-o", tmp_path / "new", *arguments)
    assert code == 2 and refusal in err and not (tmp_path / "new").exists(), err


def test_a_solved_plan_is_named_for_its_goal(cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    exported: list[dict[str, Plan]] = []

    def stop(checkpoint: Any, plans: dict[str, Plan], *rest: Any) -> None:
        exported.append(plans)
        raise UsageError("far enough")

    monkeypatch.setattr("luvc_export.export.bundling.write_bundle", stop)
    cli("export", CHECKPOINT, *SIZE, "-o", tmp_path / "new", "--speedup", 2, "--plan", "none")
    cli("export", CHECKPOINT, *SIZE, "-o", tmp_path / "new", "--kv-mib", 0.2)
    assert [list(plans) for plans in exported] == [["speedup-2", "none"], ["kv-mib-0.2"]]
    assert exported[0]["speedup-2"].schedule == "speedup 2" and exported[0]["none"].schedule == "none"
    with pytest.raises(PlanError, match="solves the budgets itself"):
        make_plan(str(CHECKPOINT), "thirds", image_size=IMAGE_SIZE, speedup=2)
    plans = make_plans(str(CHECKPOINT), ["safe", "none"], image_size=IMAGE_SIZE, speedup=2)
    assert [plan.schedule for plan in plans.values()] == ["speedup 2", "none"]


def test_quotas_are_for_the_plans_that_frames_share() -> None:
    options = {"image_size": IMAGE_SIZE, "joint_frames": 8, "quota": "v-cast"}
    plans = make_plans(str(CHECKPOINT), ["safe", "none"], **options)  # type: ignore[arg-type]
    assert [plan.sharing.quota for plan in plans.values()] == ["none", "none", "v-cast"]


def test_tiles_that_fill_the_context_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plans = {"none": make_plan(str(CHECKPOINT), "none", image_size=IMAGE_SIZE)}
    context = open_checkpoint(str(CHECKPOINT), weights=False).config.get_text_config().max_position_embeddings
    most = context // plans["none"].units
    exporting._check_tiles(plans, [(1, 1), (1, most)], context)
    for tiles in ((20, 20), (1, most + 1)):
        with pytest.raises(UsageError, match=rf"--tiles {tiles[0]}x{tiles[1]}(.|\n)*fewer than {context}"):
            exporting._check_tiles(plans, [(1, 1), tiles], context)


@pytest.mark.parametrize(
    ("words", "refusal"),
    [
        (("bench", "BUNDLE#even", "--plan", "none"), "two plans are named"),
        (("bench", "BUNDLE", "-o", "curves"), "only a sweep writes files"),
        (("parity", "hf:demo", "BUNDLE", "--task", "glyph", "--image-size", "28x28"), "the bundle says how it sees"),
        (("calibrate", "BUNDLE", "--precision", "int8", "--data", "glyph", "--percentile", 99), "--range percentile"),
        (("calibrate", "BUNDLE", "--precision", "int8", "--data", "glyph", "--rtn"), "--rtn"),
        (("calibrate", "BUNDLE", "--precision", "q8", "--data", "glyph", "--smooth", 0.5), "--smooth"),
        (("build", "BUNDLE", "--target", "rtx-ada", "--noBuilderCache", "--timingCacheFile", "x"), "--timingCacheFile"),
    ],
)
def test_other_verbs(
    cli: Cli, copied_bundle: Path, monkeypatch: pytest.MonkeyPatch, words: tuple[Any, ...], refusal: str
) -> None:
    monkeypatch.chdir(copied_bundle.parent)
    monkeypatch.setattr("luvc_export.calibration.datasets.load", lambda *arguments, **named: 1 / 0)
    code, _, err = cli(*[str(word).replace("BUNDLE", copied_bundle.name) for word in words])
    assert code == 2 and refusal in err and list(copied_bundle.parent.iterdir()) == [copied_bundle], err


def test_parity_takes_the_family_s_own_image_size(cli: Cli, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    sizes: list[tuple[int, int]] = []

    def stop(checkpoint: Any, size: tuple[int, int], *rest: Any, **more: Any) -> None:
        sizes.append(size)
        raise UsageError("far enough")

    monkeypatch.setattr("luvc_export.calibration.parity.run.canvas", stop)
    family = type(open_checkpoint(str(CHECKPOINT), weights=False).family)
    monkeypatch.setattr(family, "image_size", lambda self, config: (336, 336))
    (tmp_path / "cases.jsonl").write_text('{"prompt": "?"}')
    pair = ("parity", f"hf:{CHECKPOINT}", f"torch:{CHECKPOINT}#none")
    cli(*pair, "--cases", tmp_path / "cases.jsonl")
    cli(*pair, "--cases", tmp_path / "cases.jsonl", "--image-size", "56x84")
    cli(*pair, "--task", "glyph")
    cli(*pair, "--task", "glyph", "--image-size", "56x84")
    assert sizes == [(336, 336), (56, 84), IMAGE_SIZE, (56, 84)]


def test_the_demo_s_bundle_compresses_by_default(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Its default plan was ``none``, so ``run`` on it showed no compression."""
    commands: list[list[str]] = []
    monkeypatch.setattr(
        "luvc_export.pipeline.export_bundle", lambda *arguments, **named: commands.append(list(arguments[2]))
    )
    demo.bundle(tmp_path, True)
    assert commands == [["safe", "none", "luvc"]] and set(commands[0]) == set(demo.PLANS)


def test_the_demo_says_what_its_times_are_and_what_a_larger_model_gains() -> None:
    times = {"none": {"ttft_ms": 20.0, "prefill_ms": 5.0}, "safe": {"ttft_ms": 25.0}, "luvc": {"ttft_ms": 16.0}}
    text = at_size(demo.PLANS, times, demo.ROUNDS)
    assert "medians of 7 warm answers in turns; first token against none: safe 0.80x, luvc 1.25x." in text
    assert "takes 5.0 ms, too little for fewer FLOPs to show" in text
    assert "for 36 layers of qwen2.5-vl-3b and 1024 visual tokens" in text and "safe 2.7" in text and "luvc 2.2" in text


def test_graphs_without_weights_are_not_to_be_asked(cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    checkpoint = open_checkpoint(str(CHECKPOINT), weights=False)
    decoder = checkpoint.family.decoder_shape(checkpoint.config)

    def written(*arguments: Any, options: ExportOptions, **named: Any) -> SimpleNamespace:
        manifest = SimpleNamespace(weights=Weights(options.weights), decoder=decoder, does=tasks.find("generate"))
        return SimpleNamespace(folder=tmp_path / "new", manifest=manifest)

    monkeypatch.setattr("luvc_export.pipeline.export_bundle", written)
    monkeypatch.setattr("luvc_export.runtime.backend_choice.refusal", lambda bundle: None)
    words = ("export", CHECKPOINT, *SIZE, "-o", tmp_path / "new")
    assert "ask it something" in cli(*words)[1]
    out = cli(*words, "--no-weights")[1]
    assert "ask it something" not in out and "luvc-export inspect" in out


def test_aspect_tells_what_budgets_get_of_a_padded_picture(cli: Cli) -> None:
    code, out, err = cli("plan", CHECKPOINT, *SIZE, "--aspect", "4:1", "--json")
    record = json.loads(out)
    assert code == 0 and record["padded"]["units"] == 3 * 12, err
    keep, tokens = record["plan"]["llm"]["keep"], record["padded"]["tokens"]
    assert (
        record["padded"]["padding"] == [max(0, count - tokens) for count in keep]
        and max(record["padded"]["padding"]) > 0
    )
    shown = cli("plan", CHECKPOINT, *SIZE, "--aspect", "4:1")[1]
    assert "36 of 108 units show it" in shown and "take padding" in shown
    assert "no budget is larger" in cli("plan", CHECKPOINT, *SIZE, "--aspect", "4:3")[1]
    assert "padded" not in json.loads(cli("plan", CHECKPOINT, *SIZE, "--json")[1])
    for wrong in ("4", "0:1", "4:3:2", "wide"):
        code, _, err = cli("plan", CHECKPOINT, *SIZE, "--aspect", wrong)
        assert code == 2 and "--aspect" in err and "16:9" in err
