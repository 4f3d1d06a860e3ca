"""What is hashed is what is used: files that change after their hash, weights nobody lists, graphs no export writes."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import tiny_bundle
from onnx import TensorProto, helper

from luvc_export.bundle import folder as bundles
from luvc_export.bundle import hashing
from luvc_export.bundle.folder import Bundle
from luvc_export.bundle.graph_rules import check_graph
from luvc_export.bundle.graphs import read_graph
from luvc_export.bundle.manifest import EngineFile
from luvc_export.errors import BundleError
from luvc_export.runtime.session import Session


def zero(path: Path, at: int, count: int) -> None:
    """Zero bytes in place and put the time stamp back."""
    stat = path.stat()
    with path.open("r+b") as file:
        file.seek(at)
        file.write(bytes(count))
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))


def test_weights_zeroed_between_loading_and_the_first_question(tmp_path: Path) -> None:
    session = Session(tiny_bundle.write(tmp_path / "bundle"), threads=1)
    zero(tmp_path / "bundle" / "weights", 100, 1000)
    with pytest.raises(BundleError, match="has changed"):
        session.generate(None, "hello", max_new_tokens=1)


@pytest.mark.parametrize("mode", ["copy", "reference"])
def test_weights_zeroed_between_two_questions(tmp_path: Path, mode: str) -> None:
    session = Session(tiny_bundle.write(tmp_path / "bundle", mode), threads=1)
    session.generate(None, "hello", max_new_tokens=1)
    store = tmp_path / ("bundle" if mode == "copy" else "checkpoint")
    if mode == "reference":  # without recorded hashes only the size and the file itself tell
        (store / "weights").rename(store / "old")
        (store / "weights").write_bytes((store / "old").read_bytes())
    else:
        zero(store / "weights", 100, 1000)
    with pytest.raises(BundleError, match="changed"):
        session.generate(None, "hello", max_new_tokens=1)


def test_openvino_looks_at_its_weights_before_each_question_too(tmp_path: Path) -> None:
    pytest.importorskip("openvino")
    session = Session(tiny_bundle.write(tmp_path / "bundle"), "openvino", threads=1, arithmetic="fp32")
    session.generate(None, "hello", max_new_tokens=1)
    zero(tmp_path / "bundle" / "weights", 100, 1000)
    with pytest.raises(BundleError, match="changed"):
        session.generate(None, "hello", max_new_tokens=1)


@pytest.mark.parametrize("field", ["size", "frames"])
def test_sizes_that_fill_memory_before_a_graph_sees_them(tmp_path: Path, field: str) -> None:
    manifest = tiny_bundle.write(tmp_path / "bundle").manifest
    image = dataclasses.replace(manifest.image, **{field: {"size": (65_536, 65_536), "frames": 4096}[field]})
    wide = dataclasses.replace(image, size=(4096, 4096)) if field == "frames" else image
    plans = {name: dataclasses.replace(entry, size=wide.size) for name, entry in manifest.plans.items()}
    bundles.write_manifest(tmp_path / "bundle", dataclasses.replace(manifest, image=wide, plans=plans))
    with pytest.raises(BundleError, match="more pixels at once"):
        bundles.load(tmp_path / "bundle")


def test_a_graph_of_another_shape_than_its_plan(tmp_path: Path) -> None:
    """The fuzzer's: an output with an axis too many, which the tokens' places were counted from."""
    manifest = tiny_bundle.write(tmp_path / "bundle").manifest
    path = tmp_path / "bundle" / "vision.onnx"
    model = onnx.load(path, load_external_data=False)
    place = next(node for node in model.graph.node if node.output[0] == "visual_positions")
    place.output[0] = "inner"
    model.graph.initializer.append(numbers("front", 0))
    model.graph.node.append(helper.make_node("Unsqueeze", ["inner", "front"], ["visual_positions"]))
    info = next(item for item in model.graph.output if item.name == "visual_positions")
    info.type.tensor_type.shape.ClearField("dim")
    path.write_bytes(model.SerializeToString())
    manifest.files["vision.onnx"] = bundles.record(path)
    bundles.write_manifest(tmp_path / "bundle", manifest)
    with pytest.raises(BundleError, match=r"another shape than its plan|cannot run this graph"):
        Session(bundles.load(tmp_path / "bundle"), threads=1).generate(
            np.zeros((4, 4, 3), np.uint8), "hello", max_new_tokens=1
        )


def test_a_graph_zeroed_after_loading(tmp_path: Path) -> None:
    session = Session(tiny_bundle.write(tmp_path / "bundle"), threads=1)
    zero(tmp_path / "bundle" / "decoder.onnx", 500, 100)
    with pytest.raises(BundleError, match="has changed since it was exported"):
        session.generate(None, "hello", max_new_tokens=1)


def test_a_new_link_to_the_weights_changes_nothing(tmp_path: Path) -> None:
    session = Session(tiny_bundle.write(tmp_path / "bundle"), threads=1)
    first = session.generate(None, "hello", max_new_tokens=2).token_ids
    hashing.link(tmp_path / "bundle" / "weights", tmp_path / "another")
    assert session.generate(None, "hello", max_new_tokens=2).token_ids == first


def test_engine_bytes_are_this_process_s_own(tmp_path: Path) -> None:
    path = tmp_path / "a.engine"
    path.write_bytes(bytes(range(256)) * 100)
    engine = EngineFile("a.engine", hashing.record(path), (), (), (), 0, None, "", "")
    bundle = Bundle(tmp_path, tiny_bundle.write(tmp_path / "bundle").manifest)
    with bundle.read_engine(engine) as data:
        before = bytes(data)
        with path.open("r+b") as file:
            file.write(bytes(1000))
            file.truncate(5000)
        assert bytes(data) == before, "neither changed nor shortened, which ends a process that maps the file"
    with pytest.raises(BundleError, match="truncated"):
        bundle.read_engine(engine)
    random = np.random.default_rng(0)
    for place in random.integers(0, 25_600, 200):
        path.write_bytes(before)
        with path.open("r+b") as file:
            file.seek(int(place))
            file.write(bytes([before[place] ^ 1]))
        with pytest.raises(BundleError, match="executable code"):
            bundle.read_engine(engine)


def referring(folder: Path, hashed: bool = True) -> Path:
    manifest = tiny_bundle.write(folder / "bundle", "reference").manifest
    path = folder / "checkpoint" / "weights"
    data = path.read_bytes()
    tensors = {
        name: dataclasses.replace(
            place, sha256=hashing.hashlib.sha256(data[place.offset : place.offset + place.bytes]).hexdigest()
        )
        for name, place in manifest.weights.tensors.items()
    }
    weights = dataclasses.replace(manifest.weights, tensors=tensors if hashed else manifest.weights.tensors)
    bundles.write_manifest(folder / "bundle", dataclasses.replace(manifest, weights=weights))
    return path


def test_a_checkpoint_s_tensors_are_hashed_when_used_and_with_verify(tmp_path: Path) -> None:
    path = referring(tmp_path)
    bundles.load(tmp_path / "bundle", full=True)
    Session(tmp_path / "bundle", threads=1).generate(None, "hello", max_new_tokens=1)
    zero(path, 100, 1000)
    with pytest.raises(BundleError, match="not those the bundle was exported from"):
        bundles.load(tmp_path / "bundle", full=True)
    with pytest.raises(BundleError, match="not those the bundle was exported from"):
        Session(tmp_path / "bundle", threads=1).generate(None, "hello", max_new_tokens=1)
    with pytest.raises(BundleError, match="not those the bundle was exported from"):
        read_graph(bundles.load(tmp_path / "bundle"), "decoder.onnx")  # as build and calibrate do


def test_a_reference_bundle_of_0_1_0_still_loads(tmp_path: Path) -> None:
    referring(tmp_path, hashed=False)
    bundle = bundles.load(tmp_path / "bundle", full=True)
    assert all(tensor.sha256 is None for tensor in bundle.manifest.weights.tensors.values())
    copied = tiny_bundle.write(tmp_path / "copied")
    answers = [
        Session(each, threads=1).generate(None, "hello", max_new_tokens=1).token_ids for each in (bundle, copied)
    ]
    assert answers[0] == answers[1]


def graph(
    *nodes: Any, initializers: tuple[Any, ...] = (), functions: tuple[Any, ...] = (), inputs: tuple[Any, ...] = ()
) -> onnx.ModelProto:
    body = helper.make_graph(list(nodes), "g", list(inputs), [], list(initializers))
    opsets = [helper.make_opsetid("", 23), helper.make_opsetid("luvc", 1)]
    return helper.make_model(body, opset_imports=opsets, functions=list(functions))


def outside(name: str, **pairs: object) -> TensorProto:
    tensor = TensorProto(name=name, data_type=1, dims=[4], data_location=TensorProto.EXTERNAL)
    for key, value in pairs.items():
        tensor.external_data.add(key=key, value=str(value))
    return tensor


def twice() -> TensorProto:
    tensor = outside("w", location="listed", offset=0, length=16)
    tensor.external_data.add(key="location", value="/etc/passwd")
    return tensor


def body(*nodes: Any) -> Any:
    return helper.make_function("luvc", "F", ["x"], ["y"], list(nodes), [helper.make_opsetid("", 23)])


def numbers(name: str, *values: int) -> TensorProto:
    return helper.make_tensor(name, TensorProto.INT64, [len(values)], values)


#: Axes whose sizes take minutes to multiply, and no time to write down.
MANY = 200_000
HOSTILE = {
    "a location said twice": (graph(initializers=(twice(),)), "says 'location' twice"),
    "a constant's attribute": (
        graph(helper.make_node("Constant", [], ["c"], value=outside("c", location="secret"))),
        "lies in another file",
    ),
    "a function's body": (
        graph(functions=(body(helper.make_node("Constant", [], ["y"], value=outside("c", location="secret"))),)),
        "lies in another file",
    ),
    "a loop": (
        graph(helper.make_node("Loop", ["n", "c"], ["y"], body=helper.make_graph([], "b", [], []))),
        "operator Loop",
    ),
    "a branch": (
        graph(helper.make_node("Identity", ["n"], ["y"], then_branch=helper.make_graph([], "b", [], []))),
        "a graph",
    ),
    "an axis of 2^63": (
        graph(helper.make_node("Shape", ["x"], ["y"], start=2**63 - 1)),
        "in attribute 'start' of Shape",
    ),
    "6 GB": (
        graph(helper.make_node("ConstantOfShape", ["s"], ["y"]), initializers=(numbers("s", 1_500_000_000),)),
        "ConstantOfShape to",
    ),
    "2^31 by a constant node": (
        graph(
            helper.make_node("Constant", [], ["s"], value=numbers("s", 2, 2**30)),
            helper.make_node("Expand", ["x", "s"], ["y"]),
        ),
        "Expand to",
    ),
    "two weights of a name": (graph(initializers=(numbers("w", 1), numbers("w", 2))), "two initializers called 'w'"),
    "an operator of another domain": (
        graph(helper.make_node("Shell", ["x"], ["y"], domain="evil")),
        "operator evil.Shell",
    ),
    "a function that calls itself": (
        graph(functions=(body(helper.make_node("F", ["x"], ["y"], domain="luvc")),)),
        "calls itself",
    ),
    "a length that is not the shape's": (
        graph(initializers=(outside("w", location="listed", offset=0, length=17),)),
        "17 bytes for a shape of 16",
    ),
    "a shape of more than its data": (
        graph(initializers=(TensorProto(name="w", data_type=7, dims=[2**24], raw_data=bytes(16)),)),
        "16 bytes for a shape of 134217728",
    ),
    "a constant of more than its data": (
        graph(
            helper.make_node("Constant", [], ["c"], value=TensorProto(data_type=1, dims=[2**30], float_data=[1.0, 2.0]))
        ),
        "for a shape of",
    ),
    "a great many axes": (graph(initializers=(TensorProto(name="w", data_type=1, dims=[2**62] * MANY),)), "axes"),
    "a great many axes of a weight": (
        graph(initializers=(TensorProto(name="w", data_type=1, dims=[1] * MANY, data_location=1),)),
        "'w' of 200,000 axes",
    ),
    "sizes whose product is beyond all": (
        graph(initializers=(TensorProto(name="w", data_type=1, dims=[2**40, 2**40]),)),
        "'w' of shape",
    ),
    "sizes below zero whose product is not": (
        graph(initializers=(TensorProto(name="w", data_type=1, dims=[-1, -4], raw_data=bytes(16)),)),
        "'w' of shape",
    ),
    "a shape of a great many axes by a constant node": (
        graph(
            helper.make_node("Constant", [], ["s"], value_ints=[2**30] * MANY),
            helper.make_node("Expand", ["x", "s"], ["y"]),
        ),
        "Expand to a shape of 200,000 axes",
    ),
    "an index beyond its table": (
        graph(
            helper.make_node("Gather", ["w", "i"], ["y"], axis=1),
            initializers=(helper.make_tensor("w", 1, [2, 3], [0.0] * 6), numbers("i", 0, 3)),
        ),
        "Gather of index 3 from 3",
    ),
    "an index below it": (
        graph(
            helper.make_node("ScatterElements", ["w", "i", "w"], ["y"]),
            initializers=(outside("w", location="listed", offset=0), numbers("i", -5)),
        ),
        "ScatterElements of index -5 from 4",
    ),
    "an index of 2^31 into what is computed": (
        graph(helper.make_node("GatherND", ["x", "i"], ["y"]), initializers=(numbers("i", 2**31),)),
        "GatherND of index 2147483648",
    ),
    "an index of 32 bits by a constant node": (
        graph(
            helper.make_node("Constant", [], ["i"], value=helper.make_tensor("i", 6, [1], [2**31 - 1])),
            helper.make_node("Gather", ["x", "i"], ["y"]),
        ),
        "Gather of index 2147483647",
    ),
    "a step of nothing": (
        graph(
            helper.make_node("Slice", ["x", "a", "a", "a", "z"], ["y"]),
            initializers=(numbers("a", 1), numbers("z", 0)),
        ),
        "Slice with a step of 0",
    ),
    "two sizes left open": (
        graph(helper.make_node("Reshape", ["x", "s"], ["y"]), initializers=(numbers("s", -1, -1),)),
        "Reshape to [-1, -1]",
    ),
    "an input of a thousand axes": (
        graph(inputs=(helper.make_tensor_value_info("x", 1, [2**31] * 1000),)),
        "'x' of 1,000 axes",
    ),
    "an offset below zero": (graph(initializers=(outside("w", location="listed", offset=-1),)), "number of bytes"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_graphs_that_no_export_writes_are_refused_before_a_runtime_sees_them(name: str) -> None:
    model, words = HOSTILE[name]
    with pytest.raises(BundleError) as caught:
        check_graph(model.SerializeToString(), "x.onnx")
    assert words in str(caught.value) and "x.onnx" in str(caught.value)


def test_a_field_that_stands_twice_is_refused() -> None:
    """protobuf joins them, so the second graph's nodes would be run."""
    harmless = graph(helper.make_node("Identity", ["x"], ["y"])).SerializeToString()
    hidden = graph(helper.make_node("Loop", ["n"], ["y"])).SerializeToString()
    with pytest.raises(BundleError, match="stands 2 times"):
        check_graph(harmless + hidden, "x.onnx")


def test_what_is_exported_passes(demo_bundle: Bundle) -> None:
    """The rules are not so strict that they refuse our own: every graph of the demo bundle, weights listed."""
    for name in [name for name in demo_bundle.manifest.files if name.endswith(".onnx")]:
        checked = read_graph(demo_bundle, name)
        assert checked.outside and set(checked.files) == {"weights"}
