from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import tiny_bundle
from onnx import helper

from luvc_export.bundle import folder as bundles
from luvc_export.bundle.folder import Bundle
from luvc_export.bundle.graph_rules import OutsideTensor, check_graph, walk_graph
from luvc_export.bundle.graphs import MappedWeights, read_graph
from luvc_export.bundle.manifest import Weights
from luvc_export.errors import BundleError, MachineError
from luvc_export.runtime import memory
from luvc_export.runtime.ort import OrtBackend
from luvc_export.runtime.session import Session
from luvc_export.runtime.sharing import load_memory
from luvc_export.runtime.sharing.load_memory import cpu_bytes, fold_settings


def changed(bundle: Bundle, tensor: dict[str, Any] | None = None, **weights: Any) -> Bundle:
    old = bundle.manifest.weights
    tensors = {**old.tensors, "embed": dataclasses.replace(old.tensors["embed"], **(tensor or {}))}
    manifest = dataclasses.replace(bundle.manifest, weights=dataclasses.replace(old, tensors=tensors, **weights))
    bundles.write_manifest(bundle.folder, manifest)
    return bundles.load(bundle.folder)


def arrays_of(bundle: Bundle) -> dict[str, tuple[Any, int]]:
    """Weights of both graphs, with their ONNX types."""
    mapped, graphs = MappedWeights(), [read_graph(bundle, name) for name in ("vision.onnx", "decoder.onnx")]
    return {one.name: (mapped.array(graph, one), one.kind) for graph in graphs for one in graph.outside}


@pytest.fixture
def referring(fresh: Path) -> Bundle:
    return tiny_bundle.write(fresh, "reference", "float16")


def test_tensors_are_mapped_not_read(referring: Bundle) -> None:
    arrays = arrays_of(referring)
    for name, wanted in tiny_bundle.weights().items():
        array, kind = arrays[name]
        assert kind == 10
        assert not array.flags.owndata
        assert not array.flags.writeable
        np.testing.assert_array_equal(array, wanted.astype(np.float16))


@pytest.mark.parametrize(
    ("tensor", "words"),
    [
        ({"file": "gone"}, ["missing", "gone", "no such file"]),
        ({"file": "../bundle/tokenizer.json"}, ["outside the checkpoint folder", "tokenizer.json"]),
        ({"file": "/etc/passwd"}, ["outside the checkpoint folder", "/etc/passwd"]),
        ({"file": "link"}, ["outside the checkpoint folder", "link"]),
        ({"file": "empty"}, ["missing", "an empty file"]),
        ({"offset": 100_000}, ["shorter than when the bundle was exported", "embed", "102080"]),
        ({"offset": -4}, ["does not add up", "weights.tensors.embed"]),
        ({"bytes": 4}, ["does not add up", "4 bytes", "expected: 2080 bytes"]),
        ({"shape": (-260, -4)}, ["does not add up"]),
        ({"dtype": "float3"}, ["unknown weight type", "float3", "bfloat16"]),
    ],
)
def test_a_wrong_record_is_named(referring: Bundle, tensor: dict[str, Any], words: list[str]) -> None:
    store = Path(str(referring.manifest.weights.folder))
    (store / "empty").touch()
    (store.parent / "secret").write_bytes(bytes(4000))
    (store / "link").symlink_to(store.parent / "secret")
    with pytest.raises(BundleError) as caught:
        arrays_of(changed(referring, tensor))
    assert all(word in str(caught.value) for word in words), str(caught.value)


def test_a_folder_that_is_gone(referring: Bundle) -> None:
    with pytest.raises(BundleError, match="checkpoint this bundle takes its weights from is not there"):
        arrays_of(changed(referring, folder="/nowhere"))
    with pytest.raises(BundleError, match=r"weights\.folder"):
        arrays_of(changed(referring, folder=None))


def test_a_hub_snapshot_links_to_its_own_blobs_only(referring: Bundle) -> None:
    store = Path(str(referring.manifest.weights.folder))
    cache = store.parent / "hub"
    for model in ("models--a", "models--b"):
        (cache / model / "blobs").mkdir(parents=True)
        (cache / model / "blobs" / "0123").write_bytes((store / "weights").read_bytes())
    snapshot = cache / "models--a" / "snapshots" / "main"
    snapshot.mkdir(parents=True)
    link = snapshot / "weights"
    link.symlink_to("../../blobs/0123")
    there = changed(referring, folder=str(snapshot))
    assert arrays_of(there)
    assert Session(there).generate(None, "a", max_new_tokens=1).token_ids
    link.unlink()
    link.symlink_to("../../../models--b/blobs/0123")
    with pytest.raises(BundleError, match="outside the checkpoint folder"):
        arrays_of(there)


def test_a_weight_the_manifest_lacks(referring: Bundle) -> None:
    tensors = {name: tensor for name, tensor in referring.manifest.weights.tensors.items() if name != "embed"}
    weights = Weights("reference", referring.manifest.weights.folder, tensors)
    bundles.write_manifest(referring.folder, dataclasses.replace(referring.manifest, weights=weights))
    with pytest.raises(BundleError, match=r"does not say where a weight lies\n.*\n  got: embed"):
        Session(referring.folder).generate(None, "a")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"dtype": "bfloat16"}, ["do not agree on a weight", "got: type 16, [260, 4]", "expected: type 10, [260, 4]"]),
        ({"shape": (4, 260)}, ["do not agree on a weight", "got: type 10, [4, 260]"]),
        ({"offset": 2, "shape": (259, 4), "bytes": 2072}, ["say different places of a weight", "2072 bytes at 2"]),
    ],
)
def test_graph_and_manifest_mean_the_same_weight(referring: Bundle, change: dict[str, Any], words: list[str]) -> None:
    """The graph is what is read, the manifest what was hashed; without a hash in it nothing else tells them apart."""
    with pytest.raises(BundleError) as caught:
        arrays_of(changed(referring, {"sha256": None, **change}))
    assert all(word in str(caught.value) for word in words), str(caught.value)


def test_outside_weights_as_onnx_writes_them(bundle: Bundle) -> None:
    def read(name: str) -> dict[str, OutsideTensor]:
        graph = check_graph(bundle.path(name).read_bytes(), name)
        return {one.name: dataclasses.replace(one, offset=0) for one in graph}

    colour, embed, place = (OutsideTensor(*each, 0, 1, (3, 4), 48) for each in [("colour", "weights")] * 3)
    embed = dataclasses.replace(embed, name="embed", shape=(260, 4), length=260 * 4 * 4)
    assert read("vision.onnx") == {"colour": colour} and colour.bytes == 48
    assert read("decoder.onnx") == {"embed": embed, "place": dataclasses.replace(place, name="place")}


def test_weights_of_four_bits_share_bytes() -> None:
    assert OutsideTensor("w", "weights", 0, 22, (3, 5)).bytes == 8
    assert OutsideTensor("w", "weights", 0, 8, (3, 5)).bytes is None, "texts"


@pytest.mark.parametrize(
    ("kind", "ops", "itemsize"),
    [
        (onnx.TensorProto.FLOAT, [], 4),
        (onnx.TensorProto.FLOAT, ["Transpose"], 4),
        (onnx.TensorProto.FLOAT16, [], 4),
        (onnx.TensorProto.FLOAT16, ["Transpose"], 6),
        (onnx.TensorProto.FLOAT, ["Cast"], 4),
        (onnx.TensorProto.BFLOAT16, ["Cast"], 4),
        (onnx.TensorProto.BFLOAT16, ["Cast", "Transpose"], 6),
        (onnx.TensorProto.BFLOAT16, ["Transpose", "Cast"], 6),
        (onnx.TensorProto.INT8, [], 1),
    ],
)
def test_memory_of_a_weight_on_the_cpu(kind: int, ops: list[str], itemsize: int) -> None:
    weight = onnx.TensorProto(name="w", data_type=kind, dims=[5, 7], data_location=onnx.TensorProto.EXTERNAL)
    weight.external_data.add(key="location", value="weights")
    names = ["w", *(f"v{index}" for index in range(len(ops)))]
    nodes = [
        helper.make_node(op, [names[index]], [names[index + 1]], **({"to": 1} if op == "Cast" else {}))
        for index, op in enumerate(ops)
    ]
    nodes.append(helper.make_node("MatMul", ["x", names[-1]], ["y"]))
    graph = helper.make_graph(nodes, "g", [], [], [weight])
    assert cpu_bytes(*walk_graph(helper.make_model(graph).SerializeToString(), "x.onnx"), "x.onnx") == 35 * itemsize


def test_a_weight_above_what_onnx_runtime_folds_untold_is_folded(
    bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else a head stored in bf16 is widened in every step; a smaller limit stands for its gibibyte."""
    weight = OutsideTensor("w", "weights", 0, 16, (512, 2**19))
    assert fold_settings([weight]) == {}
    (name,) = fold_settings([dataclasses.replace(weight, shape=(513, 2**19))])
    monkeypatch.setattr(load_memory, "_FOLDED", 1)
    assert OrtBackend(bundle, bundle.entry())._decoder.get_session_options().get_session_config_entry(name) == "4160"
    nodes = [helper.make_node("Cast", ["w"], ["wide"], to=1), helper.make_node("MatMul", ["x", "wide"], ["y"])]
    ends = [[helper.make_tensor_value_info(end, 1, (1, 8))] for end in "xy"]
    stored = helper.make_tensor("w", 16, (8, 8), [1.0] * 64)
    opset = [helper.make_opsetid("", 21)]
    model = helper.make_model(helper.make_graph(nodes, "g", *ends, [stored]), ir_version=10, opset_imports=opset)
    kinds = []
    for limit in ({name: "255"}, fold_settings([dataclasses.replace(weight, shape=(8, 8))])):
        options = onnxruntime.SessionOptions()
        options.optimized_model_filepath = str(tmp_path / "folded.onnx")
        options.add_session_config_entry(*next(iter(limit.items())))
        onnxruntime.InferenceSession(model.SerializeToString(), options)
        kinds.append([node.op_type for node in onnx.load(tmp_path / "folded.onnx").graph.node])
    assert kinds == [["Cast", "MatMul"], ["MatMul"]]


@pytest.mark.parametrize("content", [b"\x3a\x05ab", b"\xff" * 12, b"\x07", b"\x3a\x80"])
def test_broken_wire_data(content: bytes) -> None:
    with pytest.raises(BundleError, match=r"no ONNX graph\n  where: .*x\.onnx"):
        check_graph(content, "x.onnx")


@pytest.mark.parametrize(("dtype", "doubles"), [("float32", False), ("float16", True), ("bfloat16", True)])
def test_memory_is_predicted_and_refused(
    fresh: Path, monkeypatch: pytest.MonkeyPatch, dtype: str, doubles: bool
) -> None:
    bundle = tiny_bundle.write(fresh, "reference", dtype)
    needed = 4 * (3 * 4 + (2 if doubles else 1) * 260 * 4 + 3 * 4)  # the embedding is widened, then transposed
    monkeypatch.setattr(memory, "available_bytes", lambda: needed)
    assert Session(bundle).generate(None, "a", max_new_tokens=1).token_ids
    monkeypatch.setattr(memory, "available_bytes", lambda: needed - 1)
    with pytest.raises(MachineError) as caught:
        Session(bundle).generate(None, "a", max_new_tokens=1)
    assert caught.value.exit_code == 3
    assert "0.00 GiB available" in str(caught.value)
    assert ("computed as fp32 on the CPU" in str(caught.value)) is doubles


def test_memory_errors_hold_both_figures(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "available_bytes", lambda: 3 * 2**30)
    with pytest.raises(MachineError, match=r"got: 3\.00 GiB available\n  expected: 14\.00 GiB \(why\)\n  fix: how"):
        memory.require(14 * 2**30, "bundle", "why", "how")
    monkeypatch.setattr(memory, "available_bytes", lambda: None)
    memory.require(2**60, "bundle", "why", "how")


def test_available_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "meminfo").write_text("MemTotal: 9 kB\nMemAvailable:    4096 kB\n")
    two, one = tmp_path / "two", tmp_path / "one"
    for folder in (two, one):
        folder.mkdir()
    monkeypatch.setattr(memory, "_MEMINFO", tmp_path / "meminfo")
    monkeypatch.setattr(memory, "_CGROUP_V2", two)
    monkeypatch.setattr(memory, "_CGROUP_V1", one)
    assert memory.available_bytes() == 4096 * 1024
    (one / "memory.limit_in_bytes").write_text("3000000\n")
    (one / "memory.usage_in_bytes").write_text("1000000\n")
    (one / "memory.stat").write_text("cache 1\ntotal_inactive_file 500000\n")
    assert memory.available_bytes() == 2_500_000
    (two / "memory.max").write_text("2000000\n")
    (two / "memory.current").write_text("1500000\n")
    (two / "memory.stat").write_text("anon 1\ninactive_file 250000\n")
    assert memory.available_bytes() == 750_000
    (two / "memory.max").write_text("max\n")
    assert memory.available_bytes() == 4096 * 1024
    (tmp_path / "meminfo").write_text("nothing\n")
    assert memory.available_bytes() is None
    monkeypatch.setattr(memory, "_MEMINFO", tmp_path / "gone")
    assert memory.available_bytes() is None


@pytest.mark.parametrize("field", ["output", "attribute"])
def test_a_cast_that_is_none_is_refused_as_one(fresh: Path, field: str) -> None:
    """Names that are no UTF-8, and a Cast to nothing: what memory is asked for is counted from them."""
    manifest = tiny_bundle.write(fresh).manifest
    data = (fresh / "decoder.onnx").read_bytes()
    model = onnx.load_from_string(data)
    cast = next(node for node in model.graph.node if node.op_type == "Cast")
    if field == "attribute":
        del cast.attribute[:]
        data = model.SerializeToString()
    else:
        cast.output[0] = "zzzz"
        data = model.SerializeToString().replace(b"zzzz", b"\x84zzz")
    (fresh / "decoder.onnx").write_bytes(data)
    manifest.files["decoder.onnx"] = bundles.record(fresh / "decoder.onnx")
    bundles.write_manifest(fresh, manifest)
    with pytest.raises(BundleError, match=r"no ONNX graph|cannot run this graph") as caught:
        Session(bundles.load(fresh), threads=1).generate(None, "hello", max_new_tokens=1)
    assert "decoder.onnx" in str(caught.value)
