"""``--dynamicPlugins``: graphs that call plugins, a library TensorRT has to take, and its place in the bundle.

No TensorRT but TensorRT-RTX runs here, whose parser takes no plugin node: engines with plugins are not built. Its
registry is the real one.
"""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import onnx
import pytest
from flat_plans import flat_plan

from luvc_export import build_engine
from luvc_export.bundle import folder
from luvc_export.bundle.folder import Bundle
from luvc_export.bundle.manifest import Footprint, Manifest
from luvc_export.cli.tables.engines import facts
from luvc_export.core.operators import DOMAIN
from luvc_export.engines import builder, install, library, targets
from luvc_export.engines.options import BuildOptions
from luvc_export.engines.profiles import Capacity
from luvc_export.errors import BundleError, LuvcError, MachineError, UsageError
from luvc_export.pipeline import prepare_build

ORIN, RTX = targets.find("jetson-agx-orin-jp62"), targets.find("rtx-ada")
CAPACITY = Capacity(32)


@pytest.fixture
def rubbish(tmp_path: Path) -> Path:
    path = tmp_path / "libluvc_plugins.so"
    path.write_bytes(b"no library")
    return path


def calls(opened: Bundle, options: BuildOptions) -> list[set[str]]:
    """Plugins that the vision and the decoder graph of ``thirds`` call, as the builder gets them."""
    prepared = prepare_build(
        opened, ORIN.name, "thirds", precision="fp16", kv="concat", text_capacity=CAPACITY.text, options=options
    )
    models = [onnx.load_from_string(graph.data) for graph in prepared.graphs]
    return [{node.op_type for node in model.graph.node if node.domain == DOMAIN} for model in models]


def test_graphs_call_plugins_where_a_library_is_given(unpadded_bundle: Bundle, rubbish: Path) -> None:
    assert not unpadded_bundle.entry("thirds").plan.encoder.padding
    assert calls(unpadded_bundle, BuildOptions(dynamic_plugins=rubbish)) == [{"OrthogonalMerge"}, {"SpectrumPrune"}]
    assert calls(unpadded_bundle, BuildOptions()) == [set(), set()]


def test_so_do_graphs_that_know_padding(demo_bundle: Bundle, rubbish: Path) -> None:
    """What an export makes by default."""
    assert demo_bundle.entry("thirds").plan.decoder_padding
    assert calls(demo_bundle, BuildOptions(dynamic_plugins=rubbish)) == [{"OrthogonalMerge"}, {"SpectrumPrune"}]


def test_a_library_without_plugins_is_refused_before_any_work(demo_bundle: Bundle, rubbish: Path) -> None:
    with pytest.raises(UsageError, match=r"tensorrt_rtx has no --dynamicPlugins") as got:
        build_engine(demo_bundle, "rtx-ada", "thirds", options=BuildOptions(dynamic_plugins=rubbish))
    assert got.value.exit_code == 2


def test_tensorrt_refuses_a_file_that_is_no_library(rubbish: Path, tmp_path: Path) -> None:
    """Before the graph is parsed: it is rubbish too."""
    taking = dataclasses.replace(RTX, library=dataclasses.replace(RTX.library, plugins=True))
    graph = builder.BuildInput("x.onnx", b"rubbish", tmp_path, flat_plan((1, 4), (4, 4), last_layer="full"), 1)
    with pytest.raises(MachineError, match=r"did not load the plugins[\s\S]*TENSORRT_ROOT") as got:
        builder.build(graph, tmp_path / "x.engine", taking, CAPACITY, BuildOptions(dynamic_plugins=rubbish))
    assert str(rubbish) in str(got.value) and [path.name for path in tmp_path.iterdir()] == [rubbish.name]


def installed(opened: Bundle, options: BuildOptions, monkeypatch: pytest.MonkeyPatch) -> Bundle:
    """What ``install`` makes of engines that a stand-in of the builder writes: no TensorRT here builds them."""

    def build(graph: Any, output: Path, target: Any, capacity: Any, asked: BuildOptions, *rest: Any) -> builder.Built:
        if options.dynamic_plugins is not None:
            assert asked.dynamic_plugins is not None and asked.dynamic_plugins.parent == output.parent
        output.write_bytes(b"engine")
        return builder.Built((), (), (), None, "{}", "")

    module = type("Module", (), {"__version__": "10.3.0.30"})
    monkeypatch.setattr(builder, "build", build)
    monkeypatch.setattr(library, "load", lambda wanted: module)
    plan = opened.entry("thirds").plan
    graphs = tuple(builder.BuildInput(f"{name}.onnx", b"", opened.folder, plan, 1) for name in ("vision", "decoder"))
    sizes, tell = Footprint(0, 0, 0, 0, 0), lambda stage, done: None
    prepared = install.PreparedBuild("thirds", graphs, ORIN, "fp16", "concat", CAPACITY, options, sizes)  # type: ignore[arg-type]
    return install.install(opened, prepared, tell)


def test_the_bundle_carries_the_library(
    copied_bundle: Path, rubbish: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    plain = Bundle(copied_bundle, folder.load(copied_bundle).manifest)
    built = installed(plain, BuildOptions(dynamic_plugins=rubbish), monkeypatch)
    entry = folder.load(copied_bundle, full=True).engine("thirds", ORIN.name)
    assert entry.plugins is not None and entry.code == (entry.vision, entry.decoder, entry.plugins)
    assert built.manifest == Manifest.from_json(json.loads((copied_bundle / "luvc.json").read_text("utf-8")), "x")
    with built.read_engine(entry.plugins) as data:
        assert data[:] == rubbish.read_bytes()
    table = facts(entry)
    assert f"{entry.plugins.file}, sha256 {entry.plugins.record.sha256[:16]}" in list(table.columns[1].cells)

    (copied_bundle / entry.plugins.file).write_bytes(b"On library")
    with pytest.raises(BundleError, match="a plugin library has changed since it was built; it is executable code"):
        folder.load(copied_bundle, full=True)
    assert built.read_engine(entry.plugins, allow_unverified=True)[:] == b"On library"
    outside = dataclasses.replace(entry.plugins, file="../x.so")
    with pytest.raises(LuvcError, match="leaves its folder"):
        built.read_engine(outside, allow_unverified=True)

    installed(built, BuildOptions(), monkeypatch)
    assert folder.load(copied_bundle).engine("thirds", ORIN.name).plugins is None
    assert not (copied_bundle / entry.plugins.file).exists()
