"""``build`` on the short bundle, with TensorRT-RTX: every engine is really built, here, without a GPU."""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from luvc_export import build_engine
from luvc_export.bundle.folder import load
from luvc_export.cli import main
from luvc_export.core import graph_io
from luvc_export.engines import targets
from luvc_export.errors import BundleError, MachineError, PlanError, UsageError
from luvc_export.runtime import memory


@pytest.fixture(scope="module")
def built(short_bundle: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The short bundle, linked, with engines of ``thirds`` for two targets."""
    folder = tmp_path_factory.mktemp("built") / "bundle"
    folder.mkdir()
    for path in short_bundle.folder.iterdir():
        os.link(path, folder / path.name)
    (folder / "luvc.json").unlink()
    (folder / "luvc.json").write_bytes((short_bundle.folder / "luvc.json").read_bytes())
    build_engine(folder, "rtx-ada", "thirds", precision="fp16")
    build_engine(folder, "rtx-blackwell", "thirds", precision="bf16", kv="concat", images=2)
    return folder


def run(*arguments: object, capsys: pytest.CaptureFixture[str]) -> tuple[int, str, str]:
    """Exit code, stdout and stderr of the CLI."""
    sys.argv = ["luvc-export", *map(str, arguments)]
    with pytest.raises(SystemExit) as stop:
        main()
    out, err = capsys.readouterr()
    return int(stop.value.code or 0), out, err


@pytest.mark.parametrize(
    ("target", "precision", "kv"), [("rtx-ada", "float16", "inplace"), ("rtx-blackwell", "bfloat16", "concat")]
)
def test_the_entry_describes_the_engines(built: Path, target: str, precision: str, kv: str) -> None:
    bundle = load(built, full=True)
    entry = bundle.engine("thirds", target)
    plan, shape = bundle.entry("thirds").plan, bundle.manifest.decoder
    assert (entry.kv, entry.backend, entry.text_capacity) == (kv, "tensorrt_rtx", bundle.manifest.prompt.text_capacity)
    assert entry.compute_capabilities == (targets.find(target).device.compute_capability,)
    assert [item.name for item in entry.vision.inputs] == [graph_io.IMAGE, graph_io.PADDING]
    inputs = {item.name: item for item in entry.decoder.inputs}
    assert set(inputs) - {"past_text", "past_groups"} == {
        *graph_io.decoder_inputs(plan),
        *graph_io.past_names(plan.layers),
    }
    assert graph_io.VISUAL_PADDING in inputs
    assert inputs[graph_io.VISUAL_EMBEDS].shape == (-1, -1, plan.vision_tokens, shape.hidden)
    for layer, keep in enumerate(plan.keep):
        cache = inputs[f"past_key_values.{layer}.value"]
        rows = entry.images * keep + entry.text_capacity
        assert cache.dtype == precision
        if kv == "inplace":
            assert cache.shape == (-1, shape.kv_heads, rows, shape.head_dim)
        else:
            assert entry.decoder.profiles[0].maximum[cache.name] == (1, shape.kv_heads, rows, shape.head_dim)
    assert [profile.name for profile in entry.decoder.profiles] == ["wide"]
    for part in (entry.vision, entry.decoder):
        with bundle.read_engine(part) as data:
            assert len(data) == part.record.bytes == (built / part.file).stat().st_size
        assert json.loads((built / part.layers).read_text(encoding="utf-8"))["layers"]
        assert (built / part.log).stat().st_size


@pytest.mark.slow(beside="engines/test_build_bundle.py::test_build_and_inspect_verbs")
def test_a_second_build_replaces_the_first(
    built: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the fixture: vision and decoder in fp16 and bf16, in both forms of the cache. Here through a link."""
    before = load(built)
    (tmp_path / "a link").symlink_to(built)
    monkeypatch.chdir(tmp_path)
    arguments = ("build", "a link", "--target", "rtx-ada", "--plan", "thirds", "--precision", "bf16", "--kv", "inplace")
    code, out, _ = run(*arguments, "--text-capacity", 32, "--json", capsys=capsys)
    assert code == 0 and json.loads(out)["engine"]["text_capacity"] == 32
    after, entry = load(built, full=True).manifest, load(built).engine("thirds", "rtx-ada")
    assert (entry.precision, entry.kv) == ("bf16", "inplace")
    assert {graph_io.NEXT_TOKEN, graph_io.NEXT_LOGIT} < {item.name for item in entry.decoder.outputs}
    assert len(after.engines) == 2 and before.engine("thirds", "rtx-blackwell") in after.engines
    assert not [path for path in built.iterdir() if path.name.startswith(".")]


def test_activations_are_predicted(built: Path) -> None:
    for entry in load(built).manifest.engines:
        most = max(entry.vision.activation_bytes or 0, entry.decoder.activation_bytes or 0)
        assert 0 < most <= entry.footprint.activations <= 3 * most


def test_engines_are_asked_for_by_plan_and_target(built: Path) -> None:
    bundle = load(built)
    with pytest.raises(UsageError, match=r"engines for several targets[\s\S]*known: rtx-ada, rtx-blackwell"):
        bundle.engine("thirds")
    with pytest.raises(UsageError, match=r"no such engine[\s\S]*did you mean 'rtx-ada'"):
        bundle.engine("thirds", "rtx-adda")
    with pytest.raises(UsageError, match=r"fix: luvc-export build .* --plan none --target TARGET"):
        bundle.engine("none")


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda data: data[:-1], "an engine is truncated"),
        (lambda data: data + b"x", "an engine has changed since it was built"),
        (
            lambda data: data[:40] + bytes([data[40] ^ 1]) + data[41:],
            "it is executable code, so it is not loaded",
        ),
        (lambda data: b"", "an engine is missing or empty"),
    ],
)
def test_only_the_engine_that_was_built_is_read(built: Path, tmp_path: Path, damage: Any, message: str) -> None:
    engine = load(built).engine("thirds", "rtx-ada").decoder
    path = tmp_path / engine.file
    path.write_bytes(damage((built / engine.file).read_bytes()))
    bundle = dataclasses.replace(load(built), folder=tmp_path)
    with pytest.raises(BundleError, match=message) as got:
        bundle.read_engine(engine)
    assert got.value.exit_code == 2
    if path.stat().st_size:
        assert len(bundle.read_engine(engine, allow_unverified=True)) == path.stat().st_size


def test_an_engine_outside_the_bundle_is_refused(built: Path) -> None:
    bundle = load(built)
    engine = dataclasses.replace(bundle.engine("thirds", "rtx-ada").decoder, file="../x.engine")
    with pytest.raises(BundleError, match="leaves its folder"):
        bundle.read_engine(engine, allow_unverified=True)


def test_build_and_inspect_verbs(
    built: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "150")
    arguments = ("build", built, "--target", "rtx-ada", "--plan", "none", "--kv", "concat", "--text-capacity", 32)
    code, out, _ = run(*arguments, capsys=capsys)
    assert (
        code == 0 and "x its weights of" in out and "memory, predicted" in out and "decoder.none.rtx-ada.engine" in out
    )
    code, out, _ = run("inspect", built, capsys=capsys)
    assert code == 0
    for shown in ("past_key_values.0-", "profile wide", "?x?x", "x its weights of", "visual_embeds", "32 text tokens"):
        assert shown in out
    code, _, err = run(*arguments, "--memPoolSize", "workspace:lots", capsys=capsys)
    assert code == 2 and "cannot read the memory pool" in err
    code, _, err = run("build", built, "--target", "rtx-adda", capsys=capsys)
    assert code == 2 and "did you mean 'rtx-ada'" in err
    code, _, err = run("build", built, "--target", "h100", capsys=capsys)
    assert code == 3 and "TensorRT times kernels on the GPU it builds for" in err


def test_what_is_missing_is_said_before_any_work(built: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UsageError, match="does not take this form of the KV cache"):
        build_engine(built, "rtx-ada", "thirds", kv="attention")
    with pytest.raises(UsageError, match="did you mean 'thirds'"):
        build_engine(built, "rtx-ada", "third")
    with pytest.raises(PlanError, match="this plan does not fit on the target") as plan:
        build_engine(built, "rtx-ada", "thirds", device_memory_gib=0.015)
    assert plan.value.exit_code == 2
    monkeypatch.setattr(memory, "available_bytes", lambda: 2**20)
    with pytest.raises(MachineError, match=r"not enough memory[\s\S]*to build engines of") as machine:
        build_engine(built, "rtx-ada", "thirds")
    assert machine.value.exit_code == 3


def test_a_bundle_without_weights_is_refused(built: Path) -> None:
    bundle = load(built)
    none = dataclasses.replace(bundle.manifest.weights, mode="none")
    bare = dataclasses.replace(bundle, manifest=dataclasses.replace(bundle.manifest, weights=none))
    with pytest.raises(BundleError, match="has no weights to build from"):
        build_engine(bare, "rtx-ada", "thirds")


def test_damaged_weights_are_refused(copied_short: Path) -> None:
    with (copied_short / "weights").open("r+b") as file:
        file.truncate(4096)
    with pytest.raises(BundleError, match="has changed since it was exported"):
        build_engine(copied_short, "rtx-ada", "thirds")
    with pytest.raises(BundleError, match="has changed since it was exported"):  # the reader's own check
        build_engine(_unchecked(copied_short), "rtx-ada", "thirds")
    assert not [path for path in copied_short.iterdir() if path.suffix in (".engine", ".part")]


def _unchecked(folder: Path) -> Any:
    from luvc_export.bundle.folder import Bundle
    from luvc_export.bundle.manifest import Manifest

    return Bundle(folder, Manifest.from_json(json.loads((folder / "luvc.json").read_text(encoding="utf-8")), "x"))


@pytest.mark.slow(beside="bundle/test_replacing.py::test_killed_at_each_step_nothing_is_lost_and_nothing_left")
def test_ctrl_c_leaves_nothing_half_written(copied_short: Path) -> None:
    before = {path.name: path.read_bytes() for path in copied_short.iterdir()}
    command = [sys.executable, "-m", "luvc_export", "build", str(copied_short), "--target", "rtx-ada"]
    child = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, preexec_fn=_interruptible
    )
    while not list(copied_short.glob(".build.*/vision.*.engine")) and child.poll() is None:
        time.sleep(0.02)
    child.send_signal(signal.SIGINT)
    _, err = child.communicate(timeout=120)
    assert child.returncode == 130, err
    assert "nothing half-written" in err
    assert {path.name: path.read_bytes() for path in copied_short.iterdir()} == before


def _interruptible() -> None:
    signal.signal(signal.SIGINT, signal.default_int_handler)
