from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import tiny_bundle
from onnx import helper

from luvc_export.bundle import folder as bundles
from luvc_export.bundle.folder import Bundle
from luvc_export.bundle.manifest import Weights
from luvc_export.errors import BundleError, MachineError
from luvc_export.runtime import memory
from luvc_export.runtime.graphfile import OutsideWeight, outside_weights
from luvc_export.runtime.session import Session
from luvc_export.runtime.weights import reference_arrays


def changed(bundle: Bundle, tensor: dict[str, Any] | None = None, **weights: Any) -> Bundle:
    old = bundle.manifest.weights
    tensors = {**old.tensors, "embed": dataclasses.replace(old.tensors["embed"], **(tensor or {}))}
    manifest = dataclasses.replace(bundle.manifest, weights=dataclasses.replace(old, tensors=tensors, **weights))
    bundles.write_manifest(bundle.folder, manifest)
    return bundles.load(bundle.folder)


@pytest.fixture
def referring(fresh: Path) -> Bundle:
    return tiny_bundle.write(fresh, "reference", "float16")


def test_tensors_are_mapped_not_read(referring: Bundle) -> None:
    arrays = reference_arrays(referring)
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
        reference_arrays(changed(referring, tensor))
    assert all(word in str(caught.value) for word in words), str(caught.value)


def test_a_folder_that_is_gone(referring: Bundle) -> None:
    with pytest.raises(BundleError, match="checkpoint this bundle takes its weights from is not there"):
        reference_arrays(changed(referring, folder="/nowhere"))
    with pytest.raises(BundleError, match=r"weights\.folder"):
        reference_arrays(changed(referring, folder=None))


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
    assert reference_arrays(there)
    assert Session(there).generate(None, "a", max_new_tokens=1).token_ids
    link.unlink()
    link.symlink_to("../../../models--b/blobs/0123")
    with pytest.raises(BundleError, match="outside the checkpoint folder"):
        reference_arrays(there)


def test_a_weight_the_manifest_lacks(referring: Bundle) -> None:
    tensors = {name: tensor for name, tensor in referring.manifest.weights.tensors.items() if name != "embed"}
    weights = Weights("reference", referring.manifest.weights.folder, tensors)
    bundles.write_manifest(referring.folder, dataclasses.replace(referring.manifest, weights=weights))
    with pytest.raises(BundleError, match=r"does not say where a weight lies\n.*\n  got: embed"):
        Session(referring.folder).generate(None, "a")


def test_outside_weights_as_onnx_writes_them(bundle: Bundle) -> None:
    colour, embed, place = 3 * 4 * 4, 260 * 4 * 4, 3 * 4 * 4
    assert outside_weights(bundle.path("vision.onnx")) == {"colour": OutsideWeight("weights", colour, colour)}
    wanted = {"embed": OutsideWeight("weights", embed, embed), "place": OutsideWeight("weights", place, place)}
    assert outside_weights(bundle.path("decoder.onnx")) == wanted


@pytest.mark.parametrize(
    ("kind", "ops", "itemsize"),
    [
        (onnx.TensorProto.FLOAT, [], 4),
        (onnx.TensorProto.FLOAT, ["Transpose"], 4),
        (onnx.TensorProto.FLOAT16, [], 4),
        (onnx.TensorProto.FLOAT16, ["Transpose"], 6),
        (onnx.TensorProto.FLOAT, ["Cast"], 4),
        (onnx.TensorProto.BFLOAT16, ["Cast"], 4),
        (onnx.TensorProto.BFLOAT16, ["Cast", "Transpose"], 8),
        (onnx.TensorProto.BFLOAT16, ["Transpose", "Cast"], 6),
        (onnx.TensorProto.INT8, [], 1),
    ],
)
def test_memory_of_a_weight_on_the_cpu(tmp_path: Path, kind: int, ops: list[str], itemsize: int) -> None:
    weight = onnx.TensorProto(name="w", data_type=kind, dims=[5, 7], data_location=onnx.TensorProto.EXTERNAL)
    weight.external_data.add(key="location", value="weights")
    names = ["w", *(f"v{index}" for index in range(len(ops)))]
    nodes = [
        helper.make_node(op, [names[index]], [names[index + 1]], **({"to": 1} if op == "Cast" else {}))
        for index, op in enumerate(ops)
    ]
    nodes.append(helper.make_node("MatMul", ["x", names[-1]], ["y"]))
    graph = helper.make_graph(nodes, "g", [], [], [weight])
    (tmp_path / "x.onnx").write_bytes(helper.make_model(graph).SerializeToString())
    assert outside_weights(tmp_path / "x.onnx")["w"].cpu_bytes == 35 * itemsize


@pytest.mark.parametrize("content", [b"\x3a\x05ab", b"\xff" * 12, b"\x07", b"\x3a\x80"])
def test_broken_wire_data(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "x.onnx").write_bytes(content)
    with pytest.raises(BundleError, match=r"no ONNX graph\n  where: .*x\.onnx"):
        outside_weights(tmp_path / "x.onnx")


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
