"""The checks of ONNX Runtime and OpenVINO: computed once a process, a few milliseconds each."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from luvc_export.runtime.product_check.check import Checked, Run, Way, check
from luvc_export.runtime.product_check.graph import INPUT, Product, float_product, int8_product

#: Session settings of ONNX Runtime (onnxruntime_session_options_config_keys.h).
ORT_INT8_WAYS = (
    Way(),
    Way({"session.x64quantprecision": "1"}, "computed as u8 x u8, which is exact and slower"),
    Way({"session.disable_quant_qdq": "1"}, "computed in fp32 between Q and DQ, which is exact and slower"),
)
#: Properties of OpenVINO's CPU plug-in.
OPENVINO_INT8_WAYS = (
    Way(),
    Way({"LP_TRANSFORMS_MODE": "NO"}, "computed in fp32 between Q and DQ, which is exact and slower"),
)


@lru_cache(maxsize=2)
def onnxruntime_int8(dtype: str = "fp32") -> Checked:
    """``int8`` products of ONNX Runtime on this CPU, in graphs of ``dtype``: fp32 or fp16.

    In fp16 it fuses no product with its Q and DQ, and a way that is right in fp32 can make a graph it cannot run.

    Raises:
        ImportError: onnxruntime is not installed.
    """
    import onnxruntime

    product = int8_product(dtype)

    def open_way(way: Way) -> Run:
        options = onnxruntime.SessionOptions()
        options.log_severity_level, options.intra_op_num_threads = 4, 1
        for name, value in way.settings.items():
            options.add_session_config_entry(name, value)
        session = onnxruntime.InferenceSession(product.graph, options, providers=["CPUExecutionProvider"])
        return lambda rows: np.asarray(session.run(None, {INPUT: rows})[0])

    return check("ONNX Runtime", "int8", product, ORT_INT8_WAYS, open_way)


@lru_cache(maxsize=8)
def openvino_int8(core: Any, device: str) -> Checked:
    """``int8`` products of an OpenVINO device; ``core`` is an ``openvino.Core``."""
    return _openvino(core, device, "int8", int8_product(), OPENVINO_INT8_WAYS, "f32")


@lru_cache(maxsize=8)
def openvino_float(core: Any, device: str, arithmetic: str, hint: str) -> Checked:
    """Products of an OpenVINO device in ``bf16`` or ``fp16``; ``hint`` is OpenVINO's name of it."""
    return _openvino(core, device, arithmetic, float_product(), (Way(),), hint)


@lru_cache(maxsize=2)
def openvino_in_place(core: Any, device: str) -> bool:
    """Whether bf16 products of an OpenVINO device are right whose weight is an input [N, K], which nothing packs."""
    product = float_product()

    def open_way(way: Way) -> Run:
        from openvino import Model, Shape, Tensor, Type, opset13

        (weights,) = (node.data for node in core.read_model(product.graph).get_ops() if "Constant" in str(node))
        turned = np.ascontiguousarray(weights.T)
        bits = (turned.view(np.uint32) >> 16).astype(np.uint16)  # exact: small integers
        rows_in, weight = opset13.parameter([-1, turned.shape[1]], np.float32), opset13.parameter(bits.shape, Type.bf16)
        model = Model([opset13.matmul(rows_in, opset13.convert(weight, "f32"), False, True)], [rows_in, weight])
        request = core.compile_model(model, device, {"INFERENCE_PRECISION_HINT": "bf16"}).create_infer_request()
        request.set_input_tensor(1, Tensor(bits, Shape(bits.shape), Type.bf16))

        def run(rows: NDArray[np.float32], _held: NDArray[np.uint16] = bits) -> NDArray[np.float32]:
            return np.array(request.infer({0: rows})[0])

        return run

    return check(f"OpenVINO {device}", "bf16", product, (Way(),), open_way).way is not None


def _openvino(core: Any, device: str, arithmetic: str, product: Product, ways: tuple[Way, ...], hint: str) -> Checked:
    def open_way(way: Way) -> Run:
        settings = {"INFERENCE_PRECISION_HINT": hint, **way.settings}
        request = core.compile_model(core.read_model(product.graph), device, settings).create_infer_request()

        def run(rows: NDArray[np.float32]) -> NDArray[np.float32]:
            return np.array(request.infer([rows])[0])

        return run

    return check(f"OpenVINO {device}", arithmetic, product, ways, open_way)
