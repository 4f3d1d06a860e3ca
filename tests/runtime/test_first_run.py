"""Graphs of strangers run in a helper first: one that ends the process ends the helper's, and the error says so."""

from __future__ import annotations

import json
import platform
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import onnx
import pytest
import tiny_bundle
from deadly_graphs import deadly, deadly_index
from PIL import Image

from luvc_export.bundle import folder as bundles
from luvc_export.bundle import graph_trust
from luvc_export.bundle.folder import Bundle
from luvc_export.calibration.runners.bundle import BundleCalls
from luvc_export.errors import BundleError, UsageError
from luvc_export.runtime.backends import open_backend
from luvc_export.runtime.confined import first_run, helpers
from luvc_export.runtime.session import Session


@pytest.fixture
def bundle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Bundle:
    """One that nobody here made, in the eyes of an empty cache."""
    monkeypatch.delenv(first_run.TRUST, raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tiny_bundle.write(tmp_path / "bundle")


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What helpers were asked to do."""
    asked: list[Any] = []
    whole = helpers.Helpers.call

    def call(self: Any, request: dict[str, Any], data: bytes = b"") -> Any:
        if "backend" in request:
            asked.append((request["backend"], request["debug"]))
        return whole(self, request, data)

    monkeypatch.setattr(helpers.Helpers, "call", call)
    return asked


def ask(bundle: Bundle, backend: str = "cpu", **more: Any) -> str:
    return Session(bundle, backend, threads=1, **more).generate(Image.new("RGB", (4, 4)), "hi", max_new_tokens=2).text


def rewritten(bundle: Bundle, name: str, change: Any) -> Bundle:
    """The bundle with another graph, hashes made right, as a stranger would."""
    model = onnx.load_model_from_string((bundle.folder / name).read_bytes())
    change(model.graph)
    (bundle.folder / name).write_bytes(model.SerializeToString())
    bundle.manifest.files[name] = bundles.record(bundle.folder / name)
    bundles.write_manifest(bundle.folder, bundle.manifest)
    return bundles.load(bundle.folder)


X86 = pytest.mark.skipif(platform.machine() not in ("x86_64", "AMD64"), reason="other CPUs answer")


def test_once_and_never_again(bundle: Bundle, started: list[Any]) -> None:
    """A plan is tried once on each back-end, by what it is made of and not by where it lies."""
    first = ask(bundle)
    assert started == [("cpu", False)] and ask(bundle) == first
    elsewhere = bundles.load(shutil.copytree(bundle.folder, bundle.folder.with_name("elsewhere")))
    assert ask(elsewhere) == first and len(started) == 1
    assert ask(elsewhere, "openvino") == first
    assert started == [("cpu", False), ("openvino", False)]
    open_backend("cpu", bundle, debug=True)
    assert started[2:] == [("cpu", True)]


def test_another_graph_is_another_matter(bundle: Bundle, started: list[Any]) -> None:
    graph_trust.remember_own(bundle)
    ask(bundle)
    assert started == [] and graph_trust.known(bundle, None, graph_trust.OWN, debug=True)
    other = rewritten(bundle, "decoder.onnx", lambda graph: setattr(graph, "doc_string", "another"))
    assert not graph_trust.known(other, None, graph_trust.OWN)
    ask(other)
    assert started == [("cpu", False)]


def test_what_is_made_of_one_s_own_is_one_s_own(bundle: Bundle, tmp_path: Path) -> None:
    own = bundles.load(shutil.copytree(bundle.folder, tmp_path / "made"))
    own = rewritten(own, "decoder.onnx", lambda graph: setattr(graph, "doc_string", "made of it"))
    graph_trust.inherit(bundle, own)
    assert not graph_trust.known(own, None, graph_trust.OWN), "a stranger's"
    graph_trust.remember_own(bundle)
    graph_trust.inherit(bundle, own)
    assert graph_trust.known(own, None, graph_trust.OWN)


@pytest.mark.parametrize("way", ["variable", "argument"])
def test_ways_to_leave_it_out(bundle: Bundle, started: list[Any], way: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if way == "variable":
        monkeypatch.setenv(first_run.TRUST, "1")
    open_backend("cpu", bundle, allow_unverified=way == "argument")
    assert started == []


@pytest.mark.parametrize(
    ("backend", "change", "signals"),
    [
        pytest.param("cpu", deadly, ("SIGFPE",), marks=X86),
        ("openvino", deadly_index, ("SIGSEGV", "SIGBUS", "SIGABRT")),
    ],
)
def test_a_graph_that_ends_the_process_ends_the_helper_s(
    bundle: Bundle, backend: str, change: Any, signals: tuple[str, ...]
) -> None:
    """With the sabotage: where the first run is left out, it does end the process that asks."""
    hostile = rewritten(bundle, "vision.onnx", change)
    for _ in range(2 if backend == "cpu" else 1):  # it is not remembered
        with pytest.raises(BundleError, match="ended that process: its graphs are not run here") as caught:
            ask(hostile, backend)
    assert caught.value.got in signals and str(caught.value.where).endswith(f"plan half, {backend}")
    code = (
        "import sys; from PIL import Image; from luvc_export import load_bundle; "
        "s = load_bundle(sys.argv[1], sys.argv[2], threads=1, allow_unverified=True); "
        "s.generate(Image.new('RGB', (4, 4)), 'hi', max_new_tokens=2)"
    )
    command = [sys.executable, "-c", code, str(hostile.folder), backend]
    assert subprocess.run(command, capture_output=True, check=False).returncode < 0


@X86
def test_the_command_line_ends_with_2(bundle: Bundle) -> None:
    hostile = rewritten(bundle, "vision.onnx", deadly)
    command = [sys.executable, "-m", "luvc_export", "run", str(hostile.folder), "--prompt", "hi", "--json"]
    done = subprocess.run([*command, "--backend", "cpu"], capture_output=True, text=True, check=False)
    assert done.returncode == 2 and "ended that process" in done.stdout + done.stderr


def test_what_is_wrong_in_the_helper_is_said_as_here(bundle: Bundle) -> None:
    def other(graph: Any) -> None:
        graph.output[0].name = "renamed"
        for node in graph.node:
            node.output[:] = ["renamed" if name == "logits" else name for name in node.output]

    with pytest.raises(BundleError, match="the graph lacks outputs of its plan") as caught:
        ask(rewritten(bundle, "decoder.onnx", other))
    assert caught.value.expected == "logits"


def test_a_usage_error_is_no_fault_of_the_bundle(bundle: Bundle, started: list[Any]) -> None:
    with pytest.raises(UsageError, match="no such plan"):
        open_backend("cpu", bundle, "gone")
    assert started == []


def test_time_is_limited(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(first_run, "_SECONDS", 0.01)
    monkeypatch.setattr(first_run, "_A_GIB", 0.0)
    with pytest.raises(BundleError, match=r"ended that process[\s\S]*more than 0.01 s"):
        ask(bundle)


def test_where_nothing_can_be_kept_this_process_remembers_and_says_the_way_out_once(
    bundle: Bundle, started: list[Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache" / "luvc-export").write_text("no folder")
    monkeypatch.setattr(graph_trust, "_this_process", set())
    monkeypatch.setattr(first_run, "_told", False)
    text = r"cache/luvc-export/graphs cannot be written[\s\S]*XDG_CACHE_HOME[\s\S]*LUVC_TRUST_BUNDLES=1"
    with pytest.warns(RuntimeWarning, match=text):
        open_backend("cpu", bundle)
    open_backend("cpu", bundle)
    assert started == [("cpu", False)]
    open_backend("cpu", bundle, debug=True)  # another graph, and no second warning: it would be an error here
    assert started == [("cpu", False), ("cpu", True)]


def test_probed_copies_of_a_stranger_s_bundle_run_there_too(bundle: Bundle, started: list[Any]) -> None:
    """What parity opens are graphs with more outputs, in a folder of their own."""
    for _ in range(2):
        BundleCalls(bundle)
        assert started == [("cpu", False), ("cpu", True)]


def test_the_record_is_no_part_of_the_bundle(bundle: Bundle, tmp_path: Path) -> None:
    before = {path.name: path.read_bytes() for path in bundle.folder.iterdir()}
    ask(bundle)
    assert {path.name: path.read_bytes() for path in bundle.folder.iterdir()} == before
    (mark,) = (tmp_path / "cache" / "luvc-export" / "graphs").iterdir()
    assert len(mark.name) == 64 and mark.read_bytes() == b""
    assert json.loads((bundle.folder / "luvc.json").read_text())["default_plan"] == "half"
