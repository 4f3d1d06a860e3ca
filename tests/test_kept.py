"""What version 0.1.0 wrote loads and runs: a bundle with engines, and a pack for a Jetson.

``kept/written_0_1_0.tar.xz`` was written by 0.1.0 before its modules moved: a random Qwen2.5-VL of 32 channels
and three layers, plans ``even`` and ``none``, engines of ``even`` for rtx-ada (TensorRT-RTX 1.7.1.116), a pack for
jetson-agx-orin-jp62, and ``expected.json``: what that code answered about ``picture``, in ONNX Runtime on a CPU.

``kept/written_before_parts.tar.xz`` was written by the last commit whose plans had no parts (3fd3c5c), of a like model
of two encoder blocks: every kind of plan that a bundle may have (another size, a video's, buckets, rounds, a mean,
a seed, a pruned encoder), the same engines and pack.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from packing import jetson_root
from typer.testing import CliRunner

from luvc_export import load_bundle
from luvc_export.bundle import folder as bundles
from luvc_export.cli import app
from luvc_export.errors import BundleError
from luvc_export.packing.on_device import install_and_verify

KEPT = Path(__file__).parent / "kept"
ARCHIVE, BEFORE_PARTS = KEPT / "written_0_1_0.tar.xz", KEPT / "written_before_parts.tar.xz"
PROMPT = "where is 7?"
PLANS = ("even", "none")

#: fp32 in ONNX Runtime's CPU kernels, whose order of sums depends on the processor; the file holds six decimals.
LOGITS = 1e-4


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("kept")
    with tarfile.open(ARCHIVE) as archive:
        archive.extractall(folder, filter="data")
    return folder


@pytest.fixture
def bundle(written: Path, tmp_path: Path) -> Path:
    """A copy of the bundle that a test may damage."""
    return Path(shutil.copytree(written / "bundle", tmp_path / "bundle"))


@pytest.fixture
def pack(written: Path, tmp_path: Path) -> Path:
    """A copy of the pack: the script signs it."""
    return Path(shutil.copytree(written / "pack", tmp_path / "pack"))


@pytest.fixture
def verify(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Callable[[Path], tuple[int, str, str]]:
    """Run a pack on a board of JetPack 6.2 with ONNX Runtime: (exit code, stdout, stderr)."""
    board = jetson_root.write(tmp_path / "board")

    def run(pack: Path) -> tuple[int, str, str]:
        code = install_and_verify(pack, "cpu", board, rebuild=False)
        return (code, *capsys.readouterr())

    return run


def change_byte(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def picture() -> Any:
    rows, columns = np.mgrid[:56, :84]
    planes = (rows * 3 + columns * 2, rows * 6 + columns * 4, rows * 9 + columns * 6)
    return np.stack(planes, -1).astype(np.uint8)


def answer(folder: Path, plan: str, image: Any = None) -> tuple[Any, dict[str, list[int]]]:
    """Logits of the prompt's last token, and kept tokens by layer."""
    session = load_bundle(folder, "cpu", plan=plan, threads=1)
    request = session.prepare(picture() if image is None else image, PROMPT)
    step = session.default.run(request.token_ids, session.default.encode_images(request.images))
    return step.logits[0, -1], {str(layer): np.ravel(kept).tolist() for layer, kept in step.kept.items()}


@pytest.mark.parametrize("plan", PLANS)
def test_a_bundle_loads_and_answers_as_it_did(written: Path, plan: str) -> None:
    assert sorted(bundles.load(written / "bundle", full=True).manifest.plans) == sorted(PLANS)
    expected = json.loads((written / "expected.json").read_text())
    logits, kept = answer(written / "bundle", plan)
    np.testing.assert_allclose(logits, expected[plan]["logits"], atol=LOGITS, rtol=0)
    assert kept == expected[plan]["kept"] and (kept or plan == "none")
    other = expected[next(name for name in PLANS if name != plan)]
    assert np.abs(logits - other["logits"]).max() > 10 * LOGITS, "the plans can be told apart"


def test_a_bundle_whose_weights_changed_does_not_answer(bundle: Path) -> None:
    change_byte(bundle / "weights")
    with pytest.raises(BundleError, match=r"changed(.|\n)*weights|weights(.|\n)*changed"):
        answer(bundle, "even")


def test_another_picture_has_another_answer(written: Path) -> None:
    """What is compared depends on pixels and weights: the comparison can fail."""
    expected = json.loads((written / "expected.json").read_text())
    logits, _ = answer(written / "bundle", "none", picture()[::-1])
    assert np.abs(logits - expected["none"]["logits"]).max() > 10 * LOGITS


def test_engines_are_shown_and_read_with_their_hash(bundle: Path) -> None:
    shown = CliRunner().invoke(app, ["inspect", str(bundle)], env={"COLUMNS": "200"})
    assert shown.exit_code == 0, shown.output
    assert "rtx-ada" in shown.stdout and "1.7.1.116" in shown.stdout
    loaded = bundles.load(bundle)
    (entry,) = loaded.manifest.engines
    assert (entry.plan, entry.target, entry.kv) == ("even", "rtx-ada", "inplace")
    for engine in entry.code:
        with loaded.read_engine(engine) as data:
            assert hashlib.sha256(data).hexdigest() == engine.record.sha256
    change_byte(bundle / entry.decoder.file)
    with pytest.raises(BundleError, match="an engine has changed since it was built"):
        loaded.read_engine(entry.decoder)
    refused = CliRunner().invoke(app, ["inspect", str(bundle)])
    assert isinstance(refused.exception, BundleError) and not refused.stdout


def test_a_pack_installs_and_passes(pack: Path, verify: Callable[[Path], tuple[int, str, str]]) -> None:
    code, out, err = verify(pack)
    assert code == 0, (out, err)
    assert "PASSED: 2 of 2 cases, onnxruntime" in out.splitlines()[-1]
    assert [signed.backend for signed in bundles.load(pack).manifest.verified] == ["onnxruntime"]


def test_a_pack_with_one_byte_changed_is_refused(pack: Path, verify: Callable[[Path], tuple[int, str, str]]) -> None:
    change_byte(pack / "weights")
    code, out, err = verify(pack)
    assert code == 2 and out.splitlines()[-1] == "NOT VERIFIED" and "has changed" in err
    assert not json.loads((pack / bundles.MANIFEST).read_text())["verified"]


@pytest.fixture(scope="module")
def before_parts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    assert BEFORE_PARTS.stat().st_size <= 1.5e6
    folder = tmp_path_factory.mktemp("before parts")
    with tarfile.open(BEFORE_PARTS) as archive:
        archive.extractall(folder, filter="data")
    return folder


def big_picture(plan: str) -> Any:
    rows, columns = np.mgrid[:56, :84] if plan.endswith("@56x84") else np.mgrid[:84, :112]
    planes = (rows * 3 + columns * 2, rows * 6 + columns * 4, rows * 9 + columns * 6)
    return np.stack(planes, -1).astype(np.uint8)


@pytest.mark.parametrize(
    "plan",
    ["even", "even@56x84", "none", "even@video", "rounds", "mean", "seeded", "encoder", "gaps", "gaps@50"],
)
def test_a_bundle_of_plans_without_parts_answers_as_it_did(before_parts: Path, plan: str) -> None:
    expected = json.loads((before_parts / "expected.json").read_text())
    session = load_bundle(before_parts / "bundle", "cpu", plan=plan, threads=1)
    images = session.plan.sharing.images
    asked = session if images == 1 else load_bundle(before_parts / "bundle", "cpu", plan="even", threads=1)
    request = asked.prepare(big_picture(plan), PROMPT)
    ids, pixels, padding = list(request.token_ids), request.images, request.padding
    if images > 1:  # the model's template has no place for a video
        at = ids.index(session.bundle.manifest.prompt.image_token_id)
        ids[at:at] = [ids[at]] * (images - 1)
        pixels = np.concatenate([pixels, *[pixels[:, :, ::-1]] * (images - 1)])
        padding = None if padding is None else np.concatenate([padding] * images)
    step = session.default.run(ids, session.default.encode_images(pixels, padding, request.units))
    np.testing.assert_allclose(step.logits[0, -1], expected[plan]["logits"], atol=LOGITS, rtol=0)
    assert {str(layer): np.ravel(kept).tolist() for layer, kept in step.kept.items()} == expected[plan]["kept"]
    others = [one["logits"] for name, one in expected.items() if name != plan]
    assert min(np.abs(step.logits[0, -1] - np.array(one)).max() for one in others) > 10 * LOGITS, (
        "they can be told apart"
    )


def test_plans_without_parts_are_written_in_parts(before_parts: Path) -> None:
    manifest = bundles.load(before_parts / "bundle", full=True).manifest
    again = type(manifest).from_json(json.loads(json.dumps(manifest.to_json())), "again")
    assert again == manifest
    plans = {name: entry.plan for name, entry in manifest.plans.items()}
    assert plans["mean"].llm.aggregate and plans["even@video"].sharing.quota == "spread"
    assert dict(plans["rounds"].llm.method.settings) == {"rho": 0.5, "rounds": "growing", "steps": 3}
    assert plans["gaps@50"].encoder.bucket == 6 and plans["seeded"].llm.method["seed"] == 7


def test_engines_and_pack_of_before_are_read(
    before_parts: Path, tmp_path: Path, verify: Callable[[Path], tuple[int, str, str]]
) -> None:
    loaded = bundles.load(before_parts / "bundle")
    (entry,) = loaded.manifest.engines
    for engine in entry.code:
        with loaded.read_engine(engine) as data:
            assert hashlib.sha256(data).hexdigest() == engine.record.sha256
    pack = Path(shutil.copytree(before_parts / "pack", tmp_path / "pack"))
    code, out, err = verify(pack)
    assert code == 0 and "PASSED: 2 of 2 cases, onnxruntime" in out.splitlines()[-1], (out, err)
