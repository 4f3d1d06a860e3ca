"""``export --precision``: one command to a bundle with a quantised plan, and what it refuses before the export."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path

import cut_checkpoint
import numpy as np
import pytest
from cli_words import Cli
from PIL import Image

from luvc_export import load_bundle
from luvc_export.bundle import folder as bundles
from luvc_export.bundle import graph_trust
from luvc_export.calibration.quantise.plans import replaced
from luvc_export.demo import IMAGE_SIZE
from luvc_export.errors import UsageError
from luvc_export.export.checkpoint import open_checkpoint
from luvc_export.export.reading import sentence_transformers
from luvc_export.pipeline.quantising import check_answers

SIZE = f"{IMAGE_SIZE[0]}x{IMAGE_SIZE[1]}"


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    folder = tmp_path / "photos"
    folder.mkdir()
    for seed in range(4):
        pixels = np.random.default_rng(seed).integers(0, 256, (40, 60, 3), np.uint8)
        Image.fromarray(pixels).save(folder / f"{seed}.png")
    return folder


@pytest.mark.slow(
    beside="calibration/quantise/test_quantise_bundle.py::test_the_plan_lies_beside_the_others_and_answers"
)
def test_pictures_without_a_question_are_enough(cli: Cli, tmp_path: Path, photos: Path) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    cut_checkpoint.write_weights(cut_checkpoint.write(folder, 2, 2) / "model.safetensors", 2, 2)
    words = ("export", folder, "-o", tmp_path / "bundle", "--image-size", SIZE, "--plan", "quick")
    words += ("--weights", "reference")
    code, out, err = cli(*words, "--precision", "int8", "--data", photos, "--retention", 0, "--json")
    assert code == 0, err
    report = json.loads(out)
    written = bundles.load(tmp_path / "bundle", full=True)
    reports = report["quantised"]
    assert [each["plan"] for each in reports] == ["safe_int8", "quick"] and reports[0]["answers"] == 2
    assert report["manifest"] == written.manifest.to_json() and written.manifest.default_plan == "quick"
    quantised = [written.entry(name).quantised for name in ("safe_int8", "quick")]
    assert all(one is not None and one.data.name == str(photos) and one.data.cases == 4 for one in quantised)
    assert [one.measured for one in quantised if one] == ["int8", "quick"]
    coded = [{name for name, kept in one.layers.items() if kept == "int8"} for one in quantised if one]
    encoder = {name for name in coded[0] if name.startswith("model.visual")}
    assert coded[1] == encoder < coded[0], "the LLM of quick stays as it was"
    assert quantised[1] and written.manifest.weights.mode == "reference"
    safe, quick = (written.entry(name) for name in ("safe", "quick"))
    assert quick.decoder == safe.decoder, "its weights are the checkpoint's, not stored once more"
    stay, gone = replaced(written.manifest, "quick")
    assert (
        stay.keys() == {"safe", "safe_int8"}
        and {quick.vision, quantised[1].weights} <= gone
        and safe.decoder not in gone
    )
    assert load_bundle(written.folder, "cpu", plan="quick").generate([photos / "0.png"], "what?").text
    tensors = {name: replace(one, sha256="0" * 64) for name, one in written.manifest.weights.tensors.items()}
    other = replace(written.manifest, weights=replace(written.manifest.weights, tensors=tensors))
    assert graph_trust.known(written, "quick", graph_trust.OWN)
    assert not graph_trust.known(replace(written, manifest=other), "quick", graph_trust.OWN), "other weights"
    assert "calibrating takes about" in err and written.entry("quick").variant_of == "safe"
    table = " ".join(cli("inspect", written.folder)[1].split())
    assert "safe int8" in table and re.search(r"│ quick │ quick │", table), "what it kept where it was measured"


@pytest.mark.parametrize(
    ("words", "refusal"),
    [
        (("--precision", "q4f16", "--dtype", "bf16"), "q4f16 needs a bundle of dtype fp16 .* --precision q4"),
        (("--precision", "q4", "--dtype", "fp16"), "q4 needs a bundle of dtype fp32 or bf16 .* --precision q4f16"),
        (("--precision", "int9"), "did you mean 'int8'"),
        (("--precision", "int8", "--no-weights"), "graphs without weights have nothing to quantise"),
        (("--precision", "int8", "--joint-frames", 4), "pictures say nothing of plans for films, .* calibrate BUNDLE"),
        (("--retention", 0.9), "only quantised plans are held to their answers .* --precision"),
        (("--precision", "int8", "--data", "nowhere"), "no such calibration set .* drawn"),
        (("--plan", "quick", "--no-weights"), "graphs without weights have nothing to quantise where: --plan quick"),
        (("--plan", "none", "--plan", "quick", "--speedup", 2), "solve the budgets themselves .* got: quick"),
        (("--plan", "quikc"), "did you mean 'quick'"),
    ],
)
def test_what_cannot_be_is_refused_before_the_export(
    cli: Cli, tmp_path: Path, words: tuple[str, ...], refusal: str
) -> None:
    code, out, err = cli("export", "demo", "-o", tmp_path / "bundle", *words)
    assert code == 2 and not out and not (tmp_path / "bundle").exists()
    assert re.search(refusal, " ".join(err.split())), err


def test_a_model_of_vectors_has_no_answers_to_hold_plans_to(monkeypatch: pytest.MonkeyPatch) -> None:
    checkpoint = open_checkpoint("demo", weights=False)
    check_answers(checkpoint, None)
    monkeypatch.setattr(sentence_transformers, "task_of", lambda checkpoint, task: "embed")
    with pytest.raises(UsageError, match=r"this model gives none[\s\S]*--precision, --plan[\s\S]*--task embed"):
        check_answers(checkpoint, None)
