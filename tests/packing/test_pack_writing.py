"""What a pack is written from, and what is refused before anything is."""

from __future__ import annotations

import ast
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import jetson_root
import numpy as np
import pytest

from luvc_export.bundle import folder as bundles
from luvc_export.bundle.folder import Bundle
from luvc_export.bundle.graph_rules import check_graph
from luvc_export.cli import main
from luvc_export.core.element_types import ELEMENT_TYPES
from luvc_export.engines.profiles import Capacity
from luvc_export.errors import UsageError
from luvc_export.packing import bootstrap, write
from luvc_export.packing.answer import Answer
from luvc_export.packing.contents import copy_files
from luvc_export.packing.programs import sources, write_wheel
from luvc_export.packing.questions import check_room


def test_the_runtime_is_a_wheel_of_all_sources_that_old_pythons_read(tmp_path: Path) -> None:
    wheel = write_wheel(tmp_path)
    again = tmp_path / "again"
    again.mkdir()
    assert write_wheel(again).read_bytes() == wheel.read_bytes()
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index", "--no-compile"]
    subprocess.run([*command, "--target", str(tmp_path / "site"), str(wheel)], check=True, capture_output=True)
    paths = [path for kind in ("py", "json") for path in (tmp_path / "site/luvc_export").rglob(f"*.{kind}")]
    installed = {path.relative_to(tmp_path / "site").as_posix() for path in paths}
    assert installed == set(sources()) >= {"luvc_export/runtime/session.py", "luvc_export/core/operators.json"}
    for name, data in sources().items():
        if name.endswith(".py"):
            ast.parse(data, name, feature_version=(3, 10))
    code = "from luvc_export.bundle import graph_rules; print(graph_rules.__file__)"
    environment = {**os.environ, "PYTHONPATH": str(tmp_path / "site")}
    shown = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=environment, check=True, capture_output=True)
    assert shown.stdout.decode().startswith(str(tmp_path / "site")), "what runs on a device reads its tables"
    ast.parse(Path(bootstrap.__file__).read_text(encoding="utf-8"), feature_version=(3, 8))


def test_weights_of_a_checkpoint_are_copied_into_the_pack(copied_bundle: Path, tmp_path: Path) -> None:
    elsewhere = tmp_path / "checkpoint"
    elsewhere.mkdir()
    (copied_bundle / "weights").rename(elsewhere / "weights")
    data = json.loads((copied_bundle / bundles.MANIFEST).read_text())
    del data["files"]["weights"]
    plans = data["plans"].values()
    read = {name: (copied_bundle / name).read_bytes() for plan in plans for name in (plan["vision"], plan["decoder"])}
    kinds = {kind.onnx: kind.name for kind in ELEMENT_TYPES}
    places = {place.name: place for name, graph in read.items() for place in check_graph(graph, name)}
    tensors = {
        name: {
            "file": "weights",
            "offset": place.offset,
            "bytes": place.bytes,
            "dtype": kinds[place.kind],
            "shape": place.shape,
        }
        for name, place in places.items()
    }
    data["weights"] = {"mode": "reference", "folder": str(elsewhere), "tensors": tensors}
    (copied_bundle / bundles.MANIFEST).write_text(json.dumps(data))
    bundle, folder = bundles.load(copied_bundle), tmp_path / "pack"
    folder.mkdir()
    graphs = [bundle.entry("thirds").vision, bundle.entry("thirds").decoder]
    for name in graphs:
        shutil.copyfile(copied_bundle / name, folder / name)
    copy_files(bundle, folder, graphs, lambda stage, done: None)
    names = {path.name for path in folder.iterdir()}
    assert {"weights", "tokenizer.json"} <= names and not names & {"decoder.even.onnx", "decoder.thirds.debug.onnx"}


def test_a_case_that_does_not_fit_the_engines_names_the_flag() -> None:
    answer = Answer((5, 9, 9, 1), (2, 3), "", np.zeros((2, 4), np.float32), {})
    check_room(answer, 9, Capacity(text=4, groups=2), "case 0")
    with pytest.raises(UsageError, match="--text-capacity 4"):
        check_room(answer, 9, Capacity(text=3, groups=2), "case 0")
    with pytest.raises(UsageError, match="--images 2"):
        check_room(answer, 9, Capacity(text=4, groups=1), "case 0")


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (("--target", "h100"), "packs are for boards that come with a system of their own"),
        (("--target", "jetson-agx-orin-jp63"), "did you mean 'jetson-agx-orin-jp62'"),
        (
            ("--target", jetson_root.TARGETS["6.2"], "--kv", "inplace"),
            "the target does not take this form of the KV cache",
        ),
        (("--target", jetson_root.TARGETS["6.2"], "--wheels", "nowhere"), "no such folder"),
        (("--target", jetson_root.TARGETS["6.2"], "--count", "0"), "there must be a case"),
        (("--target", jetson_root.TARGETS["6.2"], "--task", "glyph", "--cases", "x.jsonl"), "say once what to ask"),
        (("--target", jetson_root.TARGETS["6.2"], "--image-size", "64x64"), "a bundle has its image size"),
        (("--target", jetson_root.TARGETS["6.2"], "--plan", "half"), "the bundle has no such plan"),
    ],
)
def test_bad_usage_writes_nothing(
    demo_bundle: Bundle,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    arguments: tuple[str, ...],
    text: str,
) -> None:
    words = ("luvc-export", "pack", str(demo_bundle.folder), "-o", str(tmp_path / "pack"), *arguments)
    monkeypatch.setattr(sys, "argv", list(words))
    with pytest.raises(SystemExit) as stop:
        main()
    err = capsys.readouterr().err
    assert stop.value.code == 2 and text in err and "Traceback" not in err
    assert list(tmp_path.iterdir()) == []


def test_strict_packs_refuse_other_numbers(
    demo_bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As ``build --strict`` does: here FP8 that engines would hold in 16 bits."""
    codes = {"codes": SimpleNamespace(bytes=2**30)}
    graph = SimpleNamespace(rewrites=[SimpleNamespace(precision="fp16", places=codes)])
    prepared = SimpleNamespace(graphs=[graph], plan="none", capacity=None)
    monkeypatch.setattr(write, "prepare_build", lambda *arguments, **more: prepared)
    target = jetson_root.TARGETS["6.2"]
    with pytest.raises(UsageError, match=r"1 FP8 weights, 1\.00 GiB in fp16[\s\S]*fix:"):
        write.write_pack(demo_bundle, target, tmp_path / "pack", _nothing, strict=True)
    with pytest.raises(AssertionError, match="asked"):  # without it, cases are asked next
        monkeypatch.setattr(write, "reference", _nothing)
        write.write_pack(demo_bundle, target, tmp_path / "pack", _nothing)
    assert list(tmp_path.iterdir()) == []


def _nothing(*arguments: Any) -> Any:
    raise AssertionError("asked")
