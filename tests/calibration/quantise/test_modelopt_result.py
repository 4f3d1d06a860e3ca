"""What comes back from nvidia-modelopt: scales by product, and refusals that name the product."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from luvc_export.calibration.quantise.modelopt import graph as graphs
from luvc_export.calibration.quantise.modelopt.graph import Product
from luvc_export.calibration.quantise.recipe import Decision, Recipe, Scales, decide
from luvc_export.core.precision import PRECISIONS
from luvc_export.errors import CheckFailed

NAME = "layers.0.q_proj"
ROWS, COLUMNS = 4, 3
ZEROS = np.zeros((), np.int8)


def pair(product: str, side: int, scale: object, zero: object = None, axis: int = 1) -> tuple[list, list]:
    """A DequantizeLinear of nvidia-modelopt, and its constants."""
    array = np.asarray(scale, np.float32)
    zero = np.zeros(array.shape, np.int8) if zero is None else np.asarray(zero)
    at = f"{product}_{side}"
    constants = [numpy_helper.from_array(array, f"{at}_scale"), numpy_helper.from_array(zero, f"{at}_zero")]
    node = helper.make_node("DequantizeLinear", [f"{at}_codes", f"{at}_scale", f"{at}_zero"], [f"{at}_out"], axis=axis)
    return [node], constants


def write(folder: Path, *products: tuple[str, list[tuple[list, list] | None]]) -> Path:
    """A graph of MatMul nodes by name, each with the pair before its activation and its weight, or none."""
    nodes, constants = [], []
    for name, sides in products:
        for side in filter(None, sides):
            nodes += side[0]
            constants += side[1]
        inputs = [f"{name}_{number}_out" if side else f"plain{number}" for number, side in enumerate(sides)]
        nodes.append(helper.make_node("MatMul", inputs, [f"{name}_product"], name=name))
    names = {name for node in nodes for name in node.input} - {item.name for item in constants}
    names -= {name for node in nodes for name in node.output}
    graph_inputs = [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in sorted(names)]
    graph = helper.make_graph(nodes, "result", graph_inputs, [], constants)
    onnx.save(helper.make_model(graph), str(folder / graphs.RESULT))
    return folder / graphs.RESULT


def one(folder: Path, activation: object, weight: object) -> Scales | str:
    path = write(folder, (f"{NAME}.0", [activation, weight]))  # type: ignore[list-item]
    return graphs.read(path, {f"{NAME}.0": Product(NAME, COLUMNS)})[NAME]


@pytest.mark.parametrize("scale", [[0.1, 0.2, 0.3], [0.1], 0.1])
def test_scales_are_read_by_the_product_they_feed(tmp_path: Path, scale: object) -> None:
    scales = one(tmp_path, pair(f"{NAME}.0", 0, 0.5), pair(f"{NAME}.0", 1, scale))
    assert isinstance(scales, Scales) and scales.activation == 0.5
    np.testing.assert_array_equal(scales.weight, np.broadcast_to(np.float32(scale), (COLUMNS,)))


def test_a_product_left_high_stays_high(tmp_path: Path) -> None:
    assert one(tmp_path, None, None) == "nvidia-modelopt left it high"


def test_scales_become_our_own_weights_and_range() -> None:
    weight = np.random.default_rng(0).normal(size=(ROWS, COLUMNS)).astype(np.float32)
    scale = (np.abs(weight).max(0) / 127).astype(np.float32)
    decision = decide(Recipe(PRECISIONS["int8"], smooth=0), weight, Scales(0.5, scale))
    assert isinstance(decision, Decision) and decision.factor is None and decision.range == 63.5
    np.testing.assert_array_equal(decision.weight.values, np.rint(weight / scale).astype(np.int8))
    coarse = decide(Recipe(PRECISIONS["int8"], smooth=0), weight, Scales(0.5, 2 * scale))
    assert isinstance(coarse, Decision) and np.abs(coarse.weight.values.astype(int)).max() == 64
    assert decide(Recipe(PRECISIONS["int8"]), weight, "because") == "because"


def test_products_of_one_weight_get_the_larger_range(tmp_path: Path) -> None:
    names = [f"{NAME}.{number}" for number in range(2)]
    path = write(
        tmp_path, *((name, [pair(name, 0, 0.5 + number), pair(name, 1, 0.1)]) for number, name in enumerate(names))
    )
    scales = graphs.read(path, dict.fromkeys(names, Product(NAME, COLUMNS)))[NAME]
    assert isinstance(scales, Scales) and scales.activation == 1.5


def test_products_of_one_weight_must_agree_on_it(tmp_path: Path) -> None:
    names = [f"{NAME}.{number}" for number in range(2)]
    path = write(
        tmp_path, *((name, [pair(name, 0, 0.5), pair(name, 1, 0.1 + number)]) for number, name in enumerate(names))
    )
    with pytest.raises(CheckFailed, match=rf"{NAME}\.1: other scales than at another product"):
        graphs.read(path, dict.fromkeys(names, Product(NAME, COLUMNS)))


@pytest.mark.parametrize(
    ("activation", "weight", "refusal"),
    [
        ({"scale": 0.5}, None, "weight in fp32"),
        (None, {"scale": 0.5}, "activation in fp32"),
        ({"scale": [0.5, 0.5]}, {"scale": 0.1}, "2 scales"),
        ({"scale": 0.5}, {"scale": [0.1, 0.2]}, "2 scales"),
        ({"scale": 0.5}, {"scale": [0.1, 0.2, 0.3], "axis": 0}, "a scale a row"),
        ({"scale": 0.5, "zero": np.int8(3)}, {"scale": 0.1}, "int8 around"),
        ({"scale": 0.5, "zero": np.uint8(0)}, {"scale": 0.1}, "uint8 around"),
        ({"scale": -0.5}, {"scale": 0.1}, "positive numbers"),
        ({"scale": 0.5}, {"scale": [0.1, 0, 0.1]}, "positive numbers"),
        ({"scale": 0.5}, {"scale": [0.1, np.inf, 0.1]}, "positive numbers"),
    ],
)
def test_what_our_graph_cannot_say_is_refused_by_name(
    tmp_path: Path, activation: dict | None, weight: dict | None, refusal: str
) -> None:
    sides = [
        None if form is None else pair(f"{NAME}.0", side, **form) for side, form in enumerate((activation, weight))
    ]
    with pytest.raises(CheckFailed) as caught:
        one(tmp_path, *sides)
    assert f"{NAME}.0" in str(caught.value) and refusal in str(caught.value)


def test_a_product_that_is_gone_and_a_file_that_is_no_graph_are_refused(tmp_path: Path) -> None:
    path = write(tmp_path, ("another", [None, None]))
    with pytest.raises(CheckFailed, match=rf"a product is gone(.|\n)*{NAME}\.0"):
        graphs.read(path, {f"{NAME}.0": Product(NAME, COLUMNS)})
    path.write_bytes(b"no graph at all")
    with pytest.raises(CheckFailed, match="cannot be read"):
        graphs.read(path, {})
    with pytest.raises(CheckFailed, match="cannot be read"):
        graphs.read(tmp_path / "nowhere.onnx", {})
