"""Products of a narrow arithmetic held to exact ones when an engine starts; the first way to open it that is right.

An engine can be wrong without a word: where a CPU has no VNNI, 8-bit products of ONNX Runtime and OpenVINO sum pairs in
16 bits and overflow (onnxruntime, "Quantize ONNX Models", reduced range); OpenVINO's bf16 products had a cosine of 0.28
on one CPU (openvinotoolkit/openvino issue 38256). What a CPU is called says neither, so a product is computed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from luvc_export.errors import MachineError
from luvc_export.runtime.product_check.graph import Product

#: The largest relative L2 error of a right product. Integers are exact but for fp32 scales; bf16 rounds the result to 8
#: bits and fp16 to 11, operands being exact.
LIMITS = {"int8": 1e-3, "bf16": 2.0**-7, "fp16": 2.0**-7}

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
