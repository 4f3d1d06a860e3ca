"""docs/research.md as a reader follows it: every block runs, and what it adds is listed and used."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx.parser
import onnxruntime
import pytest
from installed import installed
from research_page import PAGE, SECTIONS, followed
from typer.testing import CliRunner

from luvc_export import make_plan
from luvc_export.bundle.folder import Bundle
from luvc_export.cli import app
from luvc_export.core.target import ORT_CPU
from luvc_export.demo import CHECKPOINT, IMAGE_SIZE
from luvc_export.engines import targets
from luvc_export.errors import CheckFailed, UsageError
from luvc_export.export.compression import scores
from luvc_export.export.surgeon import pass_list, run_passes
from luvc_export.export.surgeon.graph import PLAN_KEY

#: Run in a copy of the package with the page's switch: a plan by the option, its file, and what a prune keeps.
TRIED = """
import json, sys
from pathlib import Path
from typer.testing import CliRunner
from luvc_export.cli import app
from luvc_export.core.plan import Plan

plan = Path(sys.argv[1]) / "plan.json"
said = CliRunner().invoke(app, ["plan", "demo", "--plan", "even", "--keep-first", "3", "-o", str(plan)])
assert said.exit_code == 0, said.output
assert Plan.from_json(json.loads(plan.read_text())).llm.keep_first == 3
refused = CliRunner().invoke(app, ["plan", "demo", "--plan", "even", "--keep-first", "999"])
assert "smallest budget" in str(refused.exception), refused.output

import test_scores_export as small
import torch
from flat_plans import replan

inputs = small.feeds(1)
kept = []
for first in (0, 3):
    decoder, shape = small.decoder_of(replan(small.pruning("random"), keep_first=first))
    past = [torch.zeros(small.ROWS, shape.kv_heads, 0, shape.head_dim)] * (2 * decoder.plan.layers)
    kept += decoder(*inputs.values(), past)[2]
without, some = ([{0, 1, 2} <= {*row} for row in indices.flatten(0, 1).tolist()] for indices in kept)
assert not any(without) and all(some), kept
"""


def negated_twice() -> onnx.ModelProto:
    text = "g (float[2] x) => (float[2] y) { a = Neg(x)  b = Neg(a)  y = Abs(b) }"
    model: onnx.ModelProto = onnx.parser.parse_model(f'<ir_version: 10, opset_import: ["" : 23]> {text}')
    plan = make_plan(str(CHECKPOINT), "none", image_size=IMAGE_SIZE)
    model.metadata_props.add(key=PLAN_KEY, value=json.dumps(plan.to_json()))
    return model


def test_the_page_has_these_blocks() -> None:
    assert {title: len(blocks) for title, blocks in SECTIONS.items()} == {
        "Compare scores on a live model": 1,
        "Add a score": 2,
        "Add a switch of a plan": 1,
        "Add an option of a session": 1,
        "Add a pass": 2,
        "Add a target": 2,
    }


@pytest.mark.parametrize(
    ("section", "most"), [("Add a switch of a plan", (4, 20)), ("Add an option of a session", (1, 1))]
)
def test_what_the_page_adds_applies_to_the_files_of_today(tmp_path: Path, section: str, most: tuple[int, int]) -> None:
    [diff] = SECTIONS[section]
    files = re.findall(r"^\+\+\+ (\S+)$", diff, re.M)
    lines = sum(line[0] in "+-" for line in diff.splitlines() if line) - 2 * len(files)
    assert len(files) <= most[0] and lines <= most[1]
    for file in files:
        (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(PAGE.parents[1] / file, tmp_path / file)
    words = ["git", "apply", "--check", "-p0", "--unidiff-zero", "-"]
    for page, fails in ((diff, False), (re.sub(r"\n (\S|  )", r"\n #\1", diff, count=1), True)):
        ran = subprocess.run(words, input=page, text=True, cwd=tmp_path, capture_output=True)
        assert bool(ran.returncode) is fails, ran.stderr


#: Run in a copy of the package with the page's option: every door has it.
ASKED = """
import json, sys
from pathlib import Path
import typer
from luvc_export.batch.job import BatchJob
from luvc_export.cli import app
from luvc_export.cli.options import asked_of
from luvc_export.errors import UsageError
from luvc_export.runtime.loaded_plan import LoadedPlan
from luvc_export.runtime.session import Session
from luvc_export.runtime.session_options import SessionOptions

opening = ("run", "serve", "batch", "embed", "search")
for verb, wanted in (*((verb, True) for verb in opening), ("bench", False), ("triton", False)):
    assert ("patience" in {each.name for each in asked_of(SessionOptions, verb)}) is wanted, verb
page = (Path(sys.argv[1]) / "docs" / "cli.md").read_text()
assert page.count("| `--patience` | number, at least 0.1, at most 3600 | `30.0` | Seconds that an answer may") == 5
session = Session(sys.argv[2], plan="even", threads=1, patience=5)
assert session.options.patience == 5 and Session(sys.argv[2], options=SessionOptions(patience=6)).options.patience == 6
job = BatchJob(Path(sys.argv[2]), Path("in"), Path("out"), patience=7)
assert job.identity()["patience"] == 7 and BatchJob.from_json(json.loads(json.dumps(job.to_json()))).patience == 7
assert "patience" not in BatchJob(Path(sys.argv[2]), Path("in"), Path("out")).identity()
try:
    Session(sys.argv[2], patients=5)
    raise SystemExit("a misspelt option passes")
except UsageError as error:
    assert "patience" in str(error)
"""


def copied(folder: Path, section: str, program: str, *words: str) -> None:
    """Run ``program`` in a copy of the package to which the page's diff of ``section`` was applied."""
    ignored = shutil.ignore_patterns("__pycache__")
    shutil.copytree(PAGE.parents[1] / "luvc_export", folder / "luvc_export", ignore=ignored)
    shutil.copytree(PAGE.parent, folder / "docs", ignore=shutil.ignore_patterns("__pycache__", "results"))
    [diff] = SECTIONS[section]
    subprocess.run(["git", "apply", "-p0", "--unidiff-zero", "-"], input=diff, text=True, cwd=folder, check=True)
    tests = PAGE.parents[1] / "tests"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, (folder, tests, tests / "calibration")))}
    subprocess.run([sys.executable, "docs/command_page.py"], cwd=folder, env=environment, check=True)
    command = [sys.executable, "-W", "error::DeprecationWarning", "-c", program, str(folder), *words]
    ran = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr


@pytest.mark.slow(beside="test_research_page.py::test_what_the_page_adds_applies_to_the_files_of_today")
def test_a_switch_of_a_plan_is_a_field_an_option_and_its_arithmetic(tmp_path: Path) -> None:
    copied(tmp_path, "Add a switch of a plan", TRIED)


@pytest.mark.slow(beside="test_research_page.py::test_what_the_page_adds_applies_to_the_files_of_today")
def test_an_option_of_a_session_is_one_line(tmp_path: Path, demo_bundle: Bundle) -> None:
    copied(tmp_path, "Add an option of a session", ASKED, str(demo_bundle.folder))


@pytest.mark.slow(beside="calibration/test_scores_export.py::test_onnx_does_what_torch_does")
def test_scores_are_compared_on_a_live_model(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The page's own score among them."""
    [code] = SECTIONS["Compare scores on a live model"]
    namespace: dict[str, Any] = {}
    with followed(tmp_path, "Add a score") as name:
        exec(compile(code, str(PAGE), "exec"), namespace)
    ours = {one: scores.find(one) for one in scores.built_in()}
    gradual = {one for one, it in ours.items() if "scorer" not in it.settings and not it.needs_positions}
    assert set(namespace["found"]) == {"uncompressed", name, *gradual}
    assert namespace["found"]["uncompressed"] == len(namespace["questions"]), "the bundled model knows these"
    assert re.search(rf"^{name} +\d of {len(namespace['questions'])}$", capsys.readouterr().out, re.M)
    assert "forward" not in namespace["model"].__dict__


def test_a_pass_from_outside_runs_and_is_reported(tmp_path: Path) -> None:
    with followed(tmp_path, "Add a pass") as name:
        negated, report = run_passes(negated_twice(), ORT_CPU, passes=pass_list()[:-1])  # lint wants a decoder's inputs
    done = {item.name: item for item in report.passes}
    order = [one for one in done if one in ("lower_dialect", name, "fold_shapes", "drop_unread")]
    assert order == ["lower_dialect", name, "fold_shapes", "drop_unread"]
    assert (done[name].fired, done[name].before, done[name].after) == (1, 3, 1)
    session = onnxruntime.InferenceSession(negated.SerializeToString(), providers=["CPUExecutionProvider"])
    assert session.run(None, {"x": np.array([-2, 3], np.float32)})[0].tolist() == [2, 3]


def test_a_pass_that_does_not_keep_its_promise_is_caught(tmp_path: Path) -> None:
    module, entry = SECTIONS["Add a pass"]
    lazy = module.replace("surgery.replace(node.outputs[0], first.inputs[0])", "pass")
    assert lazy != module
    with (
        installed(tmp_path, entry, "luvc_double_negation", lazy),
        pytest.raises(CheckFailed, match="a double negation is left"),
    ):
        run_passes(negated_twice(), ORT_CPU, passes=pass_list()[:-1])


def test_a_target_from_outside_is_listed(tmp_path: Path) -> None:
    ours = targets.names()
    with followed(tmp_path, "Add a target") as name:
        assert set(targets.names()) - set(ours) == {name}
        assert name not in targets.built_in()
        result = CliRunner().invoke(app, ["targets", "--json"])
        listed = {item["name"]: item for item in json.loads(result.stdout)}
        assert listed[name]["spec"]["precisions"] == ["fp16"] and listed[name]["title"] == "NVIDIA L4, fp16 only"
        shown = CliRunner().invoke(app, ["targets", name], env={"COLUMNS": "160"})
        assert shown.exit_code == 0 and "NVIDIA L4, fp16 only" in shown.stdout
        assert targets.find(name).with_kv("concat").name == name
    assert targets.names() == ours
    with pytest.raises(UsageError, match="unknown target"):
        targets.find(name)


@pytest.mark.parametrize(
    ("module", "refusal"),
    [
        ("", "an installed target cannot be loaded(.|\n)*l4-fp16 = luvc_l4_fp16:TARGET(.|\n)*remove the package"),
        ("TARGET = 3", "calls a target is something else(.|\n)*got: int(.|\n)*a Target whose name"),
        (
            SECTIONS["Add a target"][0].replace('L4.spec, name="l4-fp16"', "L4.spec"),
            "something else(.|\n)*graphs' name, is 'l4-",
        ),
    ],
    ids=["nothing", "number", "other name"],
)
def test_a_broken_target_is_named(tmp_path: Path, module: str, refusal: str) -> None:
    entry = SECTIONS["Add a target"][1]
    with installed(tmp_path, entry, "luvc_l4_fp16", module), pytest.raises(UsageError, match=refusal):
        targets.find("l4-fp16")


def test_our_own_targets_come_first(tmp_path: Path) -> None:
    with installed(tmp_path, "[luvc_export.targets]\nl4 = luvc_l4:TARGET\n", "luvc_l4", "TARGET = 3"):
        assert targets.find("l4").title == "NVIDIA L4"
