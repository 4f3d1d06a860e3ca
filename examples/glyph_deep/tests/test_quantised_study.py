"""The study of weights in 4 bits and caches in 8."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from glyph_deep.studies.precision import calibrated, quantised
from safetensors.numpy import load_file

from luvc_export.calibration.quantise.statistics import Statistics
from luvc_export.export.checkpoint import open_checkpoint


def test_the_page_says_what_is_within_the_bar() -> None:
    """Both the loss and the upper end of its interval count."""
    row = {"ground": "plain", "form": "fp32", "plan": "none", "questions": 1000, "accuracy": 0.99}
    lost = [[0.4, -0.2, 0.9], [0.6, 0.1, 0.9], [0.2, -0.7, 1.1]]
    rows = [row, *({**row, "plan": "none_kv8", "points_lost": one} for one in lost)]
    memory = [
        {"plan": plan, "cache_bytes": size, "predicted_bytes": size, "process_bytes": 2 * size}
        for plan, size in (("none", 512 << 20), ("none_kv8", 258 << 20))
    ]
    times = [{"form": "fp32", "plan": "none", "backend": "cpu", "arithmetic": "auto", "prompt_ms": 1, "token_ms": 2}]
    page = quantised.page({"rows": rows, "memory": memory, "times": times, "machine": "a processor"})
    within = [line.rpartition(") | ")[2].strip(" |") for line in page.splitlines() if "_kv8 | plain" in line]
    assert within == ["yes", "**no**", "**no**"]
    assert "| none_kv8 | 258.0 | 258.0 | 516.0 | 0.504 |" in page
    assert "| fp32 | none | ONNX Runtime | 1.0 | 2.00 |" in page


def test_written_checkpoints_hold_codes_near_the_weights(tmp_path: Path) -> None:
    """Each form is read to what was rounded to nearest."""
    weights = load_file(quantised.CHECKPOINT / "model.safetensors")
    for form in quantised.forms():
        stored = open_checkpoint(str(quantised.written(form, tmp_path / form))).stored
        assert stored is not None and len(stored.linears) == 7 * 8
        linear = stored.linears[0]
        wide = weights[f"{linear.name}.weight"].astype(np.float32)
        error = np.linalg.norm(linear.read().widened() - wide) / np.linalg.norm(wide)
        assert 0.01 < error < 0.15


@pytest.mark.parametrize("form", ["awq", "gptq", "compressed-tensors"])
def test_calibrated_checkpoints_are_read_to_their_codes(form: str, tmp_path: Path) -> None:
    """One layer's; what is wide has other bits, and what is not quantised is as it was."""
    held = load_file(quantised.CHECKPOINT / "model.safetensors")
    weights = {
        name.removesuffix(".weight"): tensor.astype(np.float32)
        for name, tensor in held.items()
        if name.startswith("model.layers.0.") and name.endswith("_proj.weight")
    }
    model: Any = SimpleNamespace(weights=weights)
    rng, seen = np.random.default_rng(0), {}
    for name, weight in weights.items():
        width = weight.shape[1]
        seen[name] = Statistics()
        seen[name].add(np.random.default_rng(width).standard_normal((256, width)) * rng.uniform(0.1, 4, width))
    coded = calibrated.products("awq" if form == "awq" else "gptq", model, seen)
    wide = [name for name in coded if name.endswith("k_proj")]
    calibrated.save(form, tmp_path / "model", coded, wide)
    checkpoint = open_checkpoint(str(tmp_path / "model"))
    assert checkpoint.stored is not None
    read = {linear.name: linear for linear in checkpoint.stored.linears}
    assert read.keys() == coded.keys() - (set(wide) if form == "awq" else set())
    for name, linear in read.items():
        codes = coded[name].wide if name in wide else coded[name].four
        assert codes is not None and linear.bits == (8 if name in wide else 4)
        np.testing.assert_array_equal(linear.read().widened(), codes.widened())
        apart = np.linalg.norm(codes.widened() - weights[name]) / np.linalg.norm(weights[name])
        assert apart < (0.01 if name in wide else 0.25)
    after = load_file(tmp_path / "model" / "model.safetensors")
    norm = "model.layers.0.input_layernorm.weight"
    np.testing.assert_array_equal(after[norm], held[norm])


def test_codes_with_zeros_lose_less_than_half_of_what_the_nearest_lose() -> None:
    """Of the product with what enters it, whose channels go together; shuffled rows make up for nothing."""
    rng = np.random.default_rng(3)
    rows = (rng.standard_normal((512, 16)) @ rng.standard_normal((16, 64))).astype(np.float32)
    weight = (rng.standard_normal((24, 64)) + 0.5).astype(np.float32)

    def lost(sample: Any) -> float:
        seen = Statistics()
        seen.add(sample)
        return float(np.square(rows @ (calibrated.awq(weight, seen).four.widened() - weight).T).sum())

    nearest = lost(np.eye(64, dtype=np.float32))
    assert lost(rows) < 0.5 * nearest < lost(rng.permuted(rows, axis=1))


def test_cases_of_two_splits_share_no_picture(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pictures of both splits are numbered anew: a half that is held out shows none that scales were made of."""
    monkeypatch.setattr(quantised, "CALIBRATION", 24)
    data = quantised.searched(("search-plain", "search-textured"))
    assert len(data.cases) == 24 and data.pictures == len(set(data.pixels)) == 2


def test_rows_of_more_questions_stand_beside_those_of_fewer() -> None:
    """A row that is measured anew takes the old one's place; those of another count stay, behind those of fewer."""
    old = [
        {"ground": "pages", "form": form, "plan": "none", "questions": count, "accuracy": 0.9}
        for count, form in ((3000, "fp32"), (1000, "calibrated awq"), (1000, "fp32"))
    ]
    new = [{**old[0], "accuracy": 0.8}]
    rows = [(row["questions"], row["form"], row["accuracy"]) for row in quantised.merged(old, new)]
    assert rows == [(1000, "fp32", 0.9), (1000, "calibrated awq", 0.9), (3000, "fp32", 0.8)]


def test_answers_are_kept_part_by_part(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run that is cut goes on where it stopped, and more questions begin with what fewer have answered."""
    asked: list[int] = []

    def right(bundle: Path, plan: str, some: list[Any]) -> list[bool]:
        asked.append(len(some))
        if len(asked) == 2:
            raise KeyboardInterrupt
        return [True] * len(some)

    files = {name: SimpleNamespace(sha256=name) for name in ("vision", "decoder", "weights")}
    entry = SimpleNamespace(vision="vision", decoder="decoder", quantised=None)
    bundle = SimpleNamespace(manifest=SimpleNamespace(plans={"none": entry}, files=files))
    monkeypatch.setattr(quantised, "right", right)
    monkeypatch.setattr(quantised, "exported", lambda *_: tmp_path)
    monkeypatch.setattr(quantised.bundles, "load", lambda _: bundle)
    monkeypatch.setattr(quantised, "cases", lambda ground, count, seed: [SimpleNamespace(picture=0)] * count)
    rows = (("fp32", "none", None),)
    with pytest.raises(KeyboardInterrupt):
        quantised.accuracy(tmp_path, 500, rows, wanted=["pages"])
    for count in (500, 750):
        (record,) = quantised.accuracy(tmp_path, count, rows, wanted=["pages"])
        assert (record["questions"], record["accuracy"]) == (count, 1.0)
    assert asked == [250, 250, 250, 250]


def test_times_stand_beside_the_machine_they_were_taken_on() -> None:
    """A form timed anew elsewhere leaves the others' rows where they are; the same machine's take old rows' place."""

    def row(form: str, token: float) -> dict[str, Any]:
        return {
            "form": form, "plan": "none", "backend": "cpu", "arithmetic": "fp32", "prompt_ms": 1, "token_ms": token
        }  # fmt: skip

    first = quantised.with_times({}, [row("fp32", 1), row("calibrated awq", 2), row("calibrated gptq", 3)], ["x"], "A")
    again = quantised.with_times(first, [row("fp32", 4), row("calibrated awq", 5)], ["calibrated awq"], "B")
    kept = [(one["machine"], one["form"], one["token_ms"]) for one in again["times_of_forms"]]
    there = [("B", "fp32", 4), ("B", "calibrated awq", 5)]
    assert kept == [("A", "fp32", 1), ("A", "calibrated gptq", 3), *there]
    here = quantised.with_times(again, [row("fp32", 6), row("calibrated awq", 7)], ["calibrated awq"], "A")
    kept = [(one["machine"], one["form"], one["token_ms"]) for one in here["times_of_forms"]]
    assert kept == [("A", "calibrated gptq", 3), *there[:1], ("A", "fp32", 6), ("A", "calibrated awq", 7)]
    whole = quantised.with_times(again, [row("fp32", 8)], [], "C")
    page = quantised.page(whole)
    assert [page.index(f"in turns, {name};") for name in "CAB"] == sorted(page.index(f"in turns, {n};") for n in "CAB")
    assert page.index("| calibrated gptq | none | ONNX Runtime | 1.0 | 3.00 |") < page.index("in turns, B;")
