"""Parity of vectors: transformers, the compressed modules and both back-ends agree; each gate sees a fault."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from typer.testing import CliRunner

sys.path.append(str(Path(__file__).resolve().parents[2] / "export" / "families"))
import vector_bundles

from luvc_export.bundle.folder import Bundle, load
from luvc_export.calibration.parity.compare import ranks, scores_of
from luvc_export.calibration.parity.plots import page
from luvc_export.calibration.parity.result import ParityResult
from luvc_export.calibration.parity.run import open_pair, parity
from luvc_export.calibration.runners.base import VECTORS, Observation
from luvc_export.calibration.runners.probes import write_copy
from luvc_export.cli import app
from luvc_export.errors import UsageError
from luvc_export.runtime.prompt.case_lines import FileCase

NAME = "qwen3_vl"


@pytest.fixture(scope="module")
def folder(pytestconfig: pytest.Config) -> Path:
    return vector_bundles.kept(pytestconfig.cache.mkdir(f"vectors-{NAME}"), NAME)


@pytest.fixture(scope="module")
def asked(tmp_path_factory: pytest.TempPathFactory) -> Sequence[FileCase]:
    """Two pictures and a text alone."""
    height, width = vector_bundles.tiny_of(NAME).size
    place, cases = tmp_path_factory.mktemp("cases"), []
    for number in range(2):
        pixels = np.random.default_rng(number).integers(0, 255, (height, width, 3)).astype(np.uint8)
        Image.fromarray(pixels).save(place / f"{number}.png")
        cases.append(FileCase((place / f"{number}.png",), f"page {number}", None, picture=number))
    return [*cases, FileCase((), "a query of a few words", None, picture=2)]


def run(left: Any, right: Any, asked: Sequence[FileCase]) -> ParityResult:
    return parity(left, right, asked, observe=len(asked))


def failed(result: ParityResult) -> set[str]:
    return {gate.name for gate in result.gates if not gate.passed}


ERROR, COSINE, ORDER = "relative L2 of vectors", "cosine of vectors", "pairs ordered alike"


@pytest.mark.parametrize(
    ("left", "right"), [("hf", "onnx"), ("hf", "openvino"), ("torch", "onnx")], ids=["hf", "openvino", "torch"]
)
def test_vectors_agree(left: str, right: str, folder: Path, asked: Sequence[FileCase]) -> None:
    """Layer by layer, then the vector and the order; nothing is answered."""
    plan = "lean" if left == "torch" else "none"
    pair = open_pair(f"{left}:{folder}/checkpoint", f"{right}:{folder}/bundle#{plan}", threads=1)
    result = run(*pair, asked)
    assert result.passed, result.lines(True)
    names = [step.tensor for step in result.steps]
    assert names[0] == "vision" and names[-1] == VECTORS and "layer 1 in" in names and "logits" not in names
    assert {gate.name for gate in result.gates if gate.level == "vectors"} == {ERROR, COSINE, ORDER}
    assert result.comparison.ranks is not None and result.comparison.ranks.pairs >= 2
    assert not result.comparison.answered and not {gate.level for gate in result.gates} & {"answers"}
    assert page(result).startswith("<!") and json.dumps(result.to_json())


class Spoilt:
    """A runner whose vectors somebody changes."""

    def __init__(self, runner: Any, change: Callable[[int, NDArray[np.float32]], NDArray[np.float32]]) -> None:
        self.runner, self.change, self.count = runner, change, 0
        self.name, self.dtype, self.plan, self.can_force = "spoilt", runner.dtype, runner.plan, False

    def observe(self, cases: Sequence[Any], forced: Any = None, features: Any = None) -> list[Observation]:
        observed = []
        for one in self.runner.observe(cases):
            vector = self.change(self.count, one.tensors[VECTORS])
            observed.append(replace(one, tensors=one.tensors | {VECTORS: vector}))
            self.count += 1
        return observed


@pytest.mark.parametrize(
    ("change", "gates"),
    [
        (lambda number, vector: vector * np.float32(1.01), {ERROR, "relative L2"}),
        (lambda number, vector: np.roll(vector, 7 * number, 1), {ERROR, COSINE}),
        (lambda number, vector: vector * np.float32(np.nan), {"elements that are not finite", ORDER}),
        (lambda number, vector: vector[:, :-1], {ERROR, COSINE}),
        (lambda number, vector: -vector if number == 1 else vector, {ERROR, COSINE, ORDER}),
    ],
    ids=["scaled", "turned", "not a number", "short", "one of them"],
)
def test_each_gate_sees_a_fault(change: Any, gates: set[str], folder: Path, asked: Sequence[FileCase]) -> None:
    honest, _ = open_pair(f"onnx:{folder}/bundle", f"onnx:{folder}/bundle", threads=1)
    assert not failed(run(honest, Spoilt(honest, lambda number, vector: vector), asked))
    assert gates <= failed(run(honest, Spoilt(honest, change), asked))


def test_a_bundle_that_asks_otherwise_is_seen(folder: Path, asked: Sequence[FileCase], tmp_path: Path) -> None:
    """The reference asks as the checkpoint says, not as the bundle under test does."""
    bundle = load(folder / "bundle", task=None)
    assert bundle.manifest.embedding is not None
    write_copy(bundle, tmp_path, [], embedding=replace(bundle.manifest.embedding, prompts={"default": "Ignore it."}))
    left, right = open_pair(f"hf:{folder}/checkpoint", f"onnx:{tmp_path}", threads=1)
    assert ERROR in failed(run(left, right, asked))


def test_two_plans_are_judged_by_the_order_alone(folder: Path, asked: Sequence[FileCase]) -> None:
    left, right = open_pair(f"onnx:{folder}/bundle#none", f"onnx:{folder}/bundle#lean", threads=1)
    result = parity(left, right, asked, observe=3, retention=0.0)
    gates = {gate.name for gate in result.gates}
    assert result.passed and ORDER in gates and ERROR not in gates
    turned = Spoilt(right, lambda number, vector: -vector if number else vector)
    assert ORDER in failed(parity(left, turned, asked, observe=3, retention=1.0))


def test_order_within_a_level_is_rounding() -> None:
    """Scores that twice an error may turn around are not judged; others are."""
    vectors = [np.array([row], np.float32) for row in ([1, 0], [0.6, 0.8], [0.6001, 0.79992])]
    scores = scores_of(vectors)
    assert scores.shape == (3, 2)
    turned = scores.copy()
    turned[0] = turned[0, ::-1]
    level, fine = ranks(scores, turned, 1e-3), ranks(scores, turned, 1e-6)
    assert (level.pairs, level.alike) == (2, 2) and (fine.pairs, fine.alike) == (3, 2)


def test_the_command(folder: Path, asked: Sequence[FileCase], tmp_path: Path, demo_bundle: Bundle) -> None:
    lines = [{"image": str(case.images[0]), "prompt": case.prompt} for case in asked if case.images]
    file = tmp_path / "cases.jsonl"
    file.write_text("\n".join(map(json.dumps, lines)))
    words = ["parity", f"hf:{folder}/checkpoint", f"{folder}/bundle#none", "--cases", str(file), "--threads", "1"]
    reply = CliRunner().invoke(app, [*words, "--json"])
    data = json.loads(reply.output)
    assert reply.exit_code == 0 and data["passed"] and data["ranks"]["pairs"] == 0 and data["notes"]
    with pytest.raises(UsageError, match="unlike tasks"):
        open_pair(f"{demo_bundle.folder}#none", f"{folder}/bundle#none")
