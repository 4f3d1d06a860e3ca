"""Every verb from another folder: relative paths, with spaces, through links."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from cli_words import Cli
from PIL import Image

from luvc_export.bundle import folder as bundles
from luvc_export.bundle.folder import Bundle
from luvc_export.calibration.ablation import study as timing
from luvc_export.calibration.ablation.evaluator import PlanEvaluator
from luvc_export.cli import app
from luvc_export.cli.commands import demo
from luvc_export.demo import CHECKPOINT, IMAGE_SIZE
from luvc_export.demo.questions import cases

SIZE = f"{IMAGE_SIZE[0]}x{IMAGE_SIZE[1]}"
#: The same bundle by two names, seen from ``here``.
BUNDLES = ("../far away/the bundle", "a link to it")


@pytest.fixture
def here(short_bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working folder: beside it the short bundle, the model, pictures and questions, all in folders with spaces."""
    here, away = tmp_path / "here and now", tmp_path / "far away"
    here.mkdir()
    shutil.copytree(short_bundle.folder, away / "the bundle")
    (away / "the model").symlink_to(CHECKPOINT)
    (away / "pictures too").mkdir()
    lines = []
    for number, case in enumerate([case for case in cases("heldout", 60) if len(case.images) == 1][::7]):
        Image.fromarray(case.images[0]).save(away / "pictures too" / f"number {number}.png")
        named = {"image": f"pictures too/number {number}.png", "prompt": case.prompt}
        lines.append(json.dumps(named))
    (away / "all of them.jsonl").write_text("\n".join(lines))
    (here / "a link to it").symlink_to("../far away/the bundle")
    (here / "linked").symlink_to("../far away")
    monkeypatch.chdir(here)
    return here


def passed(result: tuple[int, str, str]) -> Any:
    """What a verb printed as JSON."""
    assert result[0] == 0, result[2]
    return json.loads(result[1])


QUICK = ("--repeats", 1, "--warm-up", 0, "--new-tokens", 1, "--text", 8, "--threads", 1)


def test_verbs_that_read(cli: Cli, here: Path) -> None:
    for bundle in BUNDLES:
        ask = ("--image", "linked/pictures too/number 0.png", "--prompt", "where is 7?", "--max-new-tokens", 2)
        passed(cli("run", bundle, "--plan", "thirds", *ask, "--show-kept", f"new folder/{bundle[0]}.png", "--json"))
        assert (here / f"new folder/{bundle[0]}.png").is_file()
        assert passed(cli("inspect", bundle, "--verify", "--json"))["manifest"]
    compared = ("parity", f"{BUNDLES[0]}#none", f"onnx:{BUNDLES[1]}#none", "--cases", "linked/all of them.jsonl")
    passed(cli(*compared, "--count", 1, "--observe", 1, "--report", "new folder/p q.html", "--json"))
    assert (here / "new folder/p q.html").is_file()
    record = passed(cli("bench", BUNDLES[1], "--sweep", "tokens", "-o", "some curves", "--json", *QUICK))
    assert all((here / path).is_file() for path in record["files"])


@pytest.mark.slow(beside="cli/test_elsewhere.py::test_verbs_that_read")
def test_calibrate(cli: Cli, here: Path) -> None:
    """``calibrate demo-out/bundle``, as the documentation has it, once failed with every relative path."""
    words = ("calibrate", BUNDLES[1], "--precision", "q8", "--data", "linked/all of them.jsonl", "--min-agreement", 0)
    elsewhere = ("-o", "a new bundle"), ("-o", "a link to it", "--overwrite"), ()
    for output in elsewhere:
        record = passed(cli(*words, "--plan", "none" if output else "thirds", "--max-new-tokens", 2, *output, "--json"))
        assert record["bundle"] == (output[1] if output else BUNDLES[1])
        assert record["plan"] in bundles.load(record["bundle"], full=True).manifest.plans
    assert (here / "a link to it").is_symlink() and record["plan"] in bundles.load(BUNDLES[0]).manifest.plans
    assert sorted(path.name for path in (here / "linked").iterdir()) == [
        "all of them.jsonl", "pictures too", "the bundle", "the model",
    ]  # fmt: skip


def test_pack(cli: Cli, here: Path) -> None:
    words = ("pack", BUNDLES[1], "--target", "jetson-agx-orin-jp62", "-o", "packs here/the pack")
    asked = ("--plan", "thirds", "--cases", "../far away/all of them.jsonl", "--count", 1, "--text-capacity", 64)
    assert passed(cli(*words, *asked, "--json"))["pack"] == "packs here/the pack"
    assert bundles.load("packs here/the pack", full=True).manifest.default_plan == "thirds"


@pytest.mark.slow(beside="cli/test_elsewhere.py::test_verbs_that_read")
def test_export_and_what_reads_weights_elsewhere(cli: Cli, here: Path) -> None:
    """Also where a manifest names the checkpoint's folder from its own: copies of it elsewhere must find that too."""
    small = ("--layers", 1, "--encoder-blocks", 1, "--dtype", "fp32", "--json")
    passed(cli("make-random", "linked/the model/config.json", "-o", "linked/made up model", *small))
    (here / "bundles").symlink_to(here)
    words = ("export", "linked/made up model", "--plan", "none", "--image-size", "56x56", "--weights", "reference")
    passed(cli(*words, "--text-capacity", 64, "-o", "bundles/a small one", "--json"))
    bundle = bundles.load("a small one")
    assert bundle.manifest.weights.folder == str((here / "linked/made up model").resolve())
    named = dataclasses.replace(bundle.manifest.weights, folder="../linked/made up model")
    bundles.write_manifest(bundle.folder, dataclasses.replace(bundle.manifest, weights=named))
    ask = ("--image", "linked/pictures too/number 0.png", "--prompt", "?", "--max-new-tokens", 1)
    passed(cli("run", "a small one", *ask, "--json"))
    passed(cli("parity", "a small one", "bundles/a small one", "--cases", "linked/all of them.jsonl", "--json"))
    data = ("--data", "linked/pictures too", "--prompt", "?", "--max-new-tokens", 1, "--min-agreement", 0)
    record = passed(cli("calibrate", "a small one", "--precision", "q8", *data, "-o", "linked/another", "--json"))
    assert passed(cli("run", "linked/another", "--plan", record["plan"], *ask, "--json"))["token_ids"]


@pytest.mark.slow(beside="cli/test_elsewhere.py::test_verbs_that_read")
def test_demo(cli: Cli, here: Path, demo_bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    """It finds the bundle it would make, once that has the plan the demo shows first; its folder has no links."""
    (here / "linked/the model").unlink()
    monkeypatch.setattr(demo, "PLANS", ("none", "even", "thirds"))
    copied = bundles.load(shutil.copytree(demo_bundle.folder, here / "../far away/bundle"))
    bundles.write_manifest(copied.folder, dataclasses.replace(copied.manifest, default_plan="even"))
    graph = (copied.folder / "decoder.even.onnx").stat().st_ino
    assert passed(cli("demo", "-o", "linked", "--json"))["bundle"] == "linked/bundle"
    assert (copied.folder / "decoder.even.onnx").stat().st_ino == graph, "exported anew"
    assert (here / "../far away/kept.png").is_file()


@pytest.mark.slow(beside="cli/test_elsewhere.py::test_verbs_that_read")
def test_ablate(cli: Cli, here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With answers and times that are not measured here: the paths are under test."""
    monkeypatch.setattr(PlanEvaluator, "right", lambda self, plan: [True] * len(self.cases))
    monkeypatch.setattr(timing, "measure", lambda engine, plans, text: [timing.Times(1.0, 1.0, 1.0)] * len(plans))
    words = ("ablate", "--model", "linked/the model", "-o", "new tables/of it", "--json")
    passed(cli(*words, "--count", 14, "--side", 14, "--search", 14))
    assert (here / "new tables/of it/ablation.md").is_file()


def test_plan(cli: Cli, here: Path) -> None:
    size = ("--image-size", SIZE, "--json")
    passed(cli("plan", "linked/the model", "-o", "new plans/my plan.json", *size))
    assert passed(cli("plan", "linked/the model", "--plan", "new plans/my plan.json", *size))["plan"]


def test_new_family(cli: Cli, here: Path) -> None:
    report = passed(cli("new-family", "vipllava", "-o", "new families/of it", "--json"))
    assert report["files"] == [f"new families/of it/vipllava{end}.py" for end in ("", "_checkpoint")]
    assert all((here / file).is_file() for file in report["files"])
    code, _, err = cli("new-family", "vipllava", "-o", "new families/of it")
    assert code == 2 and "this file is there already" in err


def test_batch_and_triton(cli: Cli, here: Path) -> None:
    """Pictures are named relative to the file of questions; a copied repository can be moved."""
    asked = ("--plan", "thirds", "--backend", "cpu", "--max-new-tokens", 2, "--json")
    record = passed(cli("batch", BUNDLES[1], "--input", "linked/all of them.jsonl", "-o", "new answers/of it", *asked))
    assert record["errors"] == 0 and record["rows"] > 2
    assert len((here / "new answers/of it/part-000000.jsonl").read_text().splitlines()) == record["rows"]
    code, out, err = cli("batch", BUNDLES[0], "--input", "linked/pictures too", "-o", "others", "--rows", 1, *asked)
    assert code == 1 and json.loads(out)["errors"] == record["rows"], "no prompt for any"
    assert "a case needs a prompt" in (here / "others/part-000000.jsonl").read_text() and not err
    record = passed(cli("triton", f"{BUNDLES[1]}#thirds", BUNDLES[0], "-o", "some models", "--copy", "--json"))
    assert record["models"] == ["a-link-to-it-thirds", "the-bundle"]
    shutil.move(here / "some models/the-bundle/bundle", here / "moved")
    assert bundles.load("moved", full=True)


def test_every_verb_has_such_a_test() -> None:
    """Here or, where the work is long, where it is tested anyway."""
    root = Path(__file__).parents[1]
    test_of = {"build": "engines/test_build_bundle.py", "targets": "", "doctor": ""}
    test_of |= {
        "embed": "cli/test_embed_cli.py",
        "search": "cli/test_search_cli.py",
        "serve": "serve/test_serve_options.py",
        "trial": "cli/test_trial_cli.py",
    }
    for command in app.registered_commands:
        file = test_of.get(str(command.name), "cli/test_elsewhere.py")
        assert not file or f'"{command.name}"' in (root / file).read_text(), command.name
