"""Products of a narrow arithmetic held to exact ones when an engine starts; the first way to open it that is right.

An engine can be wrong without a word: where a CPU has no VNNI, 8-bit products of ONNX Runtime and OpenVINO sum pairs in
16 bits and overflow (onnxruntime, "Quantize ONNX Models", reduced range); OpenVINO's bf16 products had a cosine of 0.28
on one CPU (openvinotoolkit/openvino issue 38256). What a CPU is called says neither, so a product is computed: once a
process, a few milliseconds each.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from luvc_export.errors import MachineError
from luvc_export.runtime.ort_graphs.blocks import BLOCKS, in_blocks
from luvc_export.runtime.product_check.graph import INPUT, Product, coded_products, float_product, int8_product

#: The largest relative L2 error of a right product. Integers are exact but for fp32 scales; bf16 rounds the result to 8
#: bits and fp16 to 11, operands being exact.
LIMITS = {"int8": 1e-3, "bf16": 2.0**-7, "fp16": 2.0**-7}

#: Largest error of a product of codes by the largest exact value: 8 bits of activations twice over lose 0.02.
MOST_CODED = 0.1

#: Computes one product: activations float32 [rows, K] in, float32 [rows, N] out.
Run = Callable[[NDArray[np.float32]], NDArray[np.float32]]


@dataclass(frozen=True)
class Way:
    """One way to open an engine.

    Args:
        settings: What it is told, by its own names.
        title: For people; empty for as it comes.
    """

    settings: Mapping[str, str] = field(default_factory=dict)
    title: str = ""


@dataclass(frozen=True)
class Checked:
    """What a check saw.

    Args:
        engine: Whose products.
        arithmetic: Of ``LIMITS``.
        errors: Relative L2 error of the product by each way tried, infinite where it could not be computed.
        way: The first that is right; None where none is.
    """

    engine: str
    arithmetic: str
    errors: tuple[float, ...]
    way: Way | None

    @property
    def note(self) -> str | None:
        """One line for people where the engine as it comes is wrong; else None."""
        if self.way is not None and len(self.errors) == 1:
            return None
        wrong = f"{self.engine} computes {self.arithmetic} products wrong here (relative error {self.errors[0]:.2g})"
        if self.way is None:
            return wrong
        return f"{wrong}: {self.way.title} ({self.errors[-1]:.1g})"

    @property
    def notes(self) -> tuple[str, ...]:
        """``note``, or nothing."""
        return (self.note,) if self.note else ()

    def usable(self, where: str) -> Way:
        """``way``.

        Raises:
            MachineError: No way is right.
        """
        if self.way is None:
            tried = ", ".join(f"{error:.2g}" for error in self.errors)
            raise MachineError(
                f"{self.engine} computes {self.arithmetic} products wrong on this machine",
                where=where,
                got=f"relative errors of one product, by each way to open it: {tried}",
                expected=f"at most {LIMITS[self.arithmetic]:.2g}",
                fix="choose another back-end (--backend) or another plan (luvc-export inspect)",
            )
        return self.way


def check(
    engine: str, arithmetic: str, product: Product, ways: Sequence[Way], open_way: Callable[[Way], Run]
) -> Checked:
    """Try ``ways`` in order until one is right.

    Args:
        engine: For people.
        arithmetic: Of ``LIMITS``.
        product: What is computed, and what must come out.
        ways: How the engine may be opened.
        open_way: Opens it. What it or its ``Run`` raises counts as a wrong product.
    """
    errors: list[float] = []
    for way in ways:
        try:
            errors.append(relative_error(product, open_way(way)))
        except Exception:  # engines raise classes of their own, and what cannot be computed is not right
            errors.append(float("inf"))
        if errors[-1] <= LIMITS[arithmetic]:
            return Checked(engine, arithmetic, tuple(errors), way)
    return Checked(engine, arithmetic, tuple(errors), None)


def relative_error(product: Product, run: Run) -> float:
    """The larger L2 error of one row and of several, relative to the exact result; infinite where it is not finite."""
    worst = 0.0
    for rows, exact in zip(product.inputs, product.exact, strict=True):
        error = float(np.linalg.norm(np.asarray(run(rows), np.float64) - exact) / np.linalg.norm(exact))
        worst = max(worst, error if np.isfinite(error) else float("inf"))
    return worst


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


#: A row of the second call is so much larger than the others: one range for all rows would leave nothing of those.
_LARGER = 50.0


@lru_cache(maxsize=1)
def onnxruntime_blocks() -> bool:
    """Whether ONNX Runtime's products of 8 bits in blocks (``ort_graphs.blocks``) are right here, each row by itself.

    Raises:
        ImportError: onnxruntime is not installed.
    """
    import onnxruntime

    for size in BLOCKS:
        coded, options = coded_products(8, size, size), onnxruntime.SessionOptions()
        options.log_severity_level, options.intra_op_num_threads = 4, 1
        blocks = in_blocks(coded.graph, lambda name: None)
        try:
            blocks.add_weights(onnxruntime, options)
            session = onnxruntime.InferenceSession(blocks.graph, options, providers=["CPUExecutionProvider"])
            blocks.forget()  # results are held to what was forgotten
            for larger in ([1.0], [_LARGER, *[1.0] * 23]):  # a step, a prompt
                by = np.array(larger, np.float32)[:, None]
                result = np.asarray(session.run(None, {INPUT: coded.given * by})[0]) / by
                if not np.abs(result - coded.exact).max() <= MOST_CODED * np.abs(coded.exact).max():
                    return False
        except Exception:  # engines raise classes of their own, and what cannot be computed is not right
            return False
    return True


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
