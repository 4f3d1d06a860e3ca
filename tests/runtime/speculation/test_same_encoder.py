"""Graphs that compute the same are known by their contents, not by their names or hashes."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from luvc_export.bundle.folder import Bundle, load, record
from luvc_export.bundle.graphs import read_graph
from luvc_export.runtime.speculation.same_encoder import _CHUNK, _computed, equal_bytes, same_graph


@pytest.fixture
def moved(bundle: Bundle, tmp_path: Path) -> Bundle:
    """The same weights at other places of their file; each graph says so."""
    import onnx

    folder = tmp_path / "moved"
    shutil.copytree(bundle.folder, folder)
    files = dict(bundle.manifest.files)
    entry = bundle.entry()
    name = next(iter(read_graph(bundle, entry.vision).files))
    (folder / name).write_bytes(bytes(64) + (bundle.folder / name).read_bytes())
    files[name] = record(folder / name)
    model = onnx.load(str(folder / entry.vision), load_external_data=False)
    for tensor in model.graph.initializer:
        for item in tensor.external_data:
            if item.key == "offset":
                item.value = str(int(item.value) + 64)
    (folder / entry.vision).write_bytes(model.SerializeToString())
    files[entry.vision] = record(folder / entry.vision)
    return Bundle(folder, replace(bundle.manifest, files=files))


def test_weights_may_lie_elsewhere(bundle: Bundle, moved: Bundle) -> None:
    vision = bundle.entry().vision
    assert bundle.manifest.files[vision] != moved.manifest.files[vision]
    assert same_graph(bundle, vision, moved, vision) and same_graph(moved, vision, bundle, vision)


def test_one_byte_of_a_weight_is_a_difference(bundle: Bundle, moved: Bundle) -> None:
    """Sabotage."""
    vision = bundle.entry().vision
    graph = read_graph(moved, vision)
    tensor = graph.outside[-1]
    path = moved.folder / tensor.location
    data = bytearray(path.read_bytes())
    data[tensor.offset] ^= 1
    path.write_bytes(data)
    files = {**moved.manifest.files, tensor.location: record(path)}
    changed = Bundle(moved.folder, replace(moved.manifest, files=files))
    assert not same_graph(bundle, vision, changed, vision)


def test_another_graph_is_another(bundle: Bundle, demo_bundle: Bundle) -> None:
    entry, demo = bundle.entry(), load(demo_bundle.folder)
    assert not same_graph(bundle, entry.vision, bundle, entry.decoder)
    plans = demo.manifest.plans
    assert same_graph(demo, plans["none"].vision, demo, plans["none"].vision)
    assert not same_graph(demo, plans["none"].vision, demo, plans["even"].vision)


def test_remarks_and_names_of_models_do_not_count() -> None:
    import onnx
    from onnx import helper

    node = helper.make_node("Relu", ["x"], ["y"])
    values = [helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [1]) for name in "xy"]
    graph = helper.make_graph([node], "one", values[:1], values[1:])
    other = helper.make_graph([node], "two", values[:1], values[1:], doc_string="a remark")
    negated = helper.make_graph([helper.make_node("Neg", ["x"], ["y"])], "one", values[:1], values[1:])
    first, second, third = (helper.make_model(one).SerializeToString() for one in (graph, other, negated))
    assert first != second and _computed(first) == _computed(second) != _computed(third)


def test_bytes_are_compared_to_the_last() -> None:
    one = np.zeros(2 * _CHUNK + 1, np.uint8)
    other = one.copy()
    assert equal_bytes(one, other) and not equal_bytes(one, other[:-1]) and equal_bytes(one[:0], other[:0])
    other[-1] = 1
    assert not equal_bytes(one, other)
