"""Engines whose products are wrong are seen when they start: passed over, opened another way, or refused, and said."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from numpy.typing import NDArray

from luvc_export.bundle.folder import Bundle
from luvc_export.errors import MachineError
from luvc_export.runtime.openvino import backend as openvino_backend
from luvc_export.runtime.openvino import device as devices
from luvc_export.runtime.ort import OrtBackend
from luvc_export.runtime.product_check import check as engines
from luvc_export.runtime.product_check.check import LIMITS, Checked, Way, check, relative_error
from luvc_export.runtime.product_check.graph import Product, float_product, int8_product

Rows = NDArray[np.float32]


@pytest.fixture(autouse=True)
def _computed_anew() -> Iterator[None]:
    remembered = engines.onnxruntime_int8, engines.openvino_int8, engines.openvino_float
    for one in remembered:
        one.cache_clear()
    yield
    for one in remembered:
        one.cache_clear()


def constants(product: Product) -> dict[str, NDArray[Any]]:
    model = onnx.load_from_string(product.graph)
    onnx.checker.check_model(model, full_check=True)
    return {item.name: onnx.numpy_helper.to_array(item) for item in model.graph.initializer}


def saturating(product: Product) -> Callable[[Rows], Rows]:
    """u8 x s8 as ``vpmaddubsw`` sums it: pairs in 16 bits, with saturation; then what the activations' 128 added."""
    operands = constants(product)
    weights, scale = operands["w"].astype(np.int32), float(operands["scale"])

    def run(rows: Rows) -> Rows:
        codes = np.clip(np.rint(rows / scale), -128, 127).astype(np.int32) + 128
        pairs = codes[:, 0::2, None] * weights[None, 0::2] + codes[:, 1::2, None] * weights[None, 1::2]
        sums = np.clip(pairs, -(2**15), 2**15 - 1).sum(1) - 128 * weights.sum(0)
        return (sums * scale * operands["w_scale"]).astype(np.float32)

    return run


def unpaired(product: Product) -> Callable[[Rows], Rows]:
    """The same sum without saturation."""
    operands = constants(product)
    return lambda rows: (rows @ (operands["w"].astype(np.float64) * operands["w_scale"])).astype(np.float32)


def test_the_graphs_are_valid_and_exact_in_fp32() -> None:
    for product in (int8_product(), int8_product("fp16"), float_product()):
        constants(product)
        session = onnxruntime.InferenceSession(product.graph, providers=["CPUExecutionProvider"])
        assert [len(rows) for rows in product.inputs] == [1, 24]
        if product.graph == float_product().graph:
            assert relative_error(product, lambda rows, s=session: s.run(None, {"x": rows})[0]) < 1e-6
    for rows in float_product().inputs:  # 16-bit arithmetic holds the operands exactly
        assert np.array_equal(rows.view(np.uint32) & 0xFFFF, np.zeros(rows.shape)) and np.abs(rows).max() == 8


def test_saturating_products_are_far_over_the_limit_and_exact_ones_far_under() -> None:
    product = int8_product()
    assert relative_error(product, saturating(product)) > 100 * LIMITS["int8"]
    assert relative_error(product, unpaired(product)) < LIMITS["int8"] / 100


@pytest.mark.parametrize("kind", ["bf16", "fp16"])
def test_a_rounded_result_is_right_and_a_lying_one_is_not(kind: str) -> None:
    product = float_product()
    right = dict(zip((len(rows) for rows in product.inputs), product.exact, strict=True))

    def rounded(rows: Rows) -> Rows:
        bits = right[len(rows)].astype(np.float32).view(np.uint32)
        return ((bits + 0x8000) & 0xFFFF0000).view(np.float32)

    assert relative_error(product, rounded) < LIMITS[kind] / 2
    for wrong in (
        lambda rows: rounded(rows) * np.float32(1.02),
        lambda rows: rounded(rows)[:, ::-1],
        lambda rows: rounded(rows) * np.float32("nan"),
        lambda rows: rounded(rows) if len(rows) > 1 else 2 * rounded(rows),  # one row has a kernel of its own
    ):
        assert not relative_error(product, wrong) <= LIMITS[kind]


def test_the_first_right_way_is_taken_and_said_with_its_figure() -> None:
    product = int8_product()
    ways = (Way(), Way({"a": "1"}, "broken"), Way({"b": "1"}, "computed in fp32"))

    def open_way(way: Way) -> Callable[[Rows], Rows]:
        if "a" in way.settings:
            raise RuntimeError("no such setting")
        return unpaired(product) if way.settings else saturating(product)

    verdict = check("Engine", "int8", product, ways, open_way)
    assert verdict.way == ways[2] and verdict.errors[1] == float("inf") and verdict.usable("here") == ways[2]
    assert verdict.notes == (
        f"Engine computes int8 products wrong here (relative error {verdict.errors[0]:.2g}): computed in fp32 "
        f"({verdict.errors[2]:.1g})",
    )
    assert check("Engine", "int8", product, ways[2:], open_way).note is None
    none = check("Engine", "int8", product, ways[:2], open_way)
    assert none.way is None and none.note is not None
    with pytest.raises(MachineError, match=r"Engine computes int8 products wrong on this machine(.|\n)*0\.\d+, inf"):
        none.usable("here")


def test_onnx_runtime_is_right_here_by_one_of_its_ways() -> None:
    verdict = engines.onnxruntime_int8()
    assert verdict.way is not None and verdict.errors[-1] <= LIMITS["int8"]
    assert engines.onnxruntime_int8() is verdict  # once a process


def test_so_it_is_in_graphs_of_fp16(monkeypatch: pytest.MonkeyPatch) -> None:
    """As u8 x u8 it makes a graph of them that it cannot run (1.31), on any CPU; that way is passed over."""
    verdict = engines.onnxruntime_int8("fp16")
    assert verdict.way is not None and verdict.errors[-1] <= LIMITS["int8"]
    monkeypatch.setattr(engines, "ORT_INT8_WAYS", engines.ORT_INT8_WAYS[1:])
    engines.onnxruntime_int8.cache_clear()
    verdict = engines.onnxruntime_int8("fp16")
    assert verdict.errors[0] == float("inf") and verdict.way == engines.ORT_INT8_WAYS[1]


def test_openvino_is_right_here_by_one_of_its_ways() -> None:
    pytest.importorskip("openvino", reason="pip install 'luvc-export[openvino]'")
    assert engines.openvino_int8(devices.core(), "CPU").way is not None


def test_every_switch_gives_exact_products(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each fallback alone: also on CPUs that need none."""
    for way in engines.ORT_INT8_WAYS[1:]:
        monkeypatch.setattr(engines, "ORT_INT8_WAYS", (way,))
        engines.onnxruntime_int8.cache_clear()
        assert engines.onnxruntime_int8().way == way
    pytest.importorskip("openvino", reason="pip install 'luvc-export[openvino]'")
    monkeypatch.setattr(engines, "OPENVINO_INT8_WAYS", engines.OPENVINO_INT8_WAYS[1:])
    assert engines.openvino_int8(devices.core(), "CPU").way is not None


def test_an_openvino_device_that_computes_bf16_wrong_has_none(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("openvino", reason="pip install 'luvc-export[openvino]'")
    if "bf16" not in devices.describe("CPU").arithmetics:
        pytest.skip("this CPU has no bf16")
    monkeypatch.setattr(engines, "openvino_float", lambda *_: Checked("OpenVINO CPU", "bf16", (5.5,), None))
    device = devices.find("CPU")
    assert device.arithmetics == ("fp32",) and device.best == devices.arithmetic(device, "auto") == "fp32"
    # Where the CPU has fp16 too, its probe is the same stand-in.
    assert {*device.notes} == {"OpenVINO CPU computes bf16 products wrong here (relative error 5.5)"}
    with pytest.raises(MachineError, match=r"does not compute in that arithmetic(.|\n)*relative error 5\.5"):
        devices.arithmetic(device, "bf16")


def coded(bundle: Bundle) -> Any:
    """The plan of a bundle as if it were in 8 bits."""
    return replace(bundle.entry(), quantised=SimpleNamespace(precision="int8", recipe={}, layers={}))  # type: ignore[arg-type]


def test_a_session_of_onnx_runtime_is_opened_the_way_that_is_right(
    bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And none is, and says why, where no way is: whatever the CPU of this test does by itself."""
    way = engines.ORT_INT8_WAYS[2]
    verdict = Checked("ONNX Runtime", "int8", (0.5, 0.4, 1e-7), way)
    monkeypatch.setattr(engines, "onnxruntime_int8", lambda dtype: verdict)
    backend: Any = OrtBackend(bundle, coded(bundle), threads=1)
    backend.load(images=False)
    options = backend._decoder.get_session_options()
    assert way.settings and all(options.get_session_config_entry(name) == text for name, text in way.settings.items())
    assert backend.notes == verdict.notes and "0.5" in backend.notes[0]
    monkeypatch.setattr(engines, "onnxruntime_int8", lambda dtype: replace(verdict, way=None))
    with pytest.raises(MachineError, match="ONNX Runtime computes int8 products wrong on this machine"):
        OrtBackend(bundle, coded(bundle), threads=1)
    assert OrtBackend(bundle, bundle.entry(), threads=1).notes == (), "floats are not asked about"


def test_so_is_a_graph_of_openvino(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("openvino", reason="pip install 'luvc-export[openvino]'")
    way = engines.OPENVINO_INT8_WAYS[1]
    verdict = Checked("OpenVINO CPU", "int8", (0.5, 1e-7), way)
    monkeypatch.setattr(engines, "openvino_int8", lambda core, device: verdict)
    compiled: list[Any] = []
    honest = openvino_backend.compile_graph

    def noted(*arguments: Any) -> Any:
        compiled.extend(one for one in arguments if isinstance(one, dict))
        return honest(*arguments)

    monkeypatch.setattr(openvino_backend, "compile_graph", noted)
    backend = openvino_backend.OpenVinoBackend(bundle, coded(bundle), threads=1, arithmetic="fp32")
    backend.load(images=False)
    assert compiled and all(way.settings.items() <= settings.items() for settings in compiled)
    assert verdict.note in backend.notes
    monkeypatch.setattr(engines, "openvino_int8", lambda core, device: replace(verdict, way=None))
    with pytest.raises(MachineError, match="OpenVINO CPU computes int8 products wrong on this machine"):
        openvino_backend.OpenVinoBackend(bundle, coded(bundle), threads=1, arithmetic="fp32")
