"""How far outputs may move, by what a pass does to the arithmetic. Differences are relative to the largest value.

One table for tests and docs; each row says why, and how far the bundled model's graphs really moved.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Tolerance:
    """Largest difference, and the reason for it."""

    largest: float
    why: str


TOLERANCES = {
    "exact": Tolerance(0.0, "no arithmetic moves: layout, sharing, inlining, constants of integers"),
    "products": Tolerance(
        1e-6, "products of other widths may be blocked otherwise; in ONNX Runtime 1.31 they were bit-equal"
    ),
    "constants": Tolerance(
        1e-5, "cos and sin folded by numpy differ from the runtime's by one unit in the last place; seen 3e-7 to 2e-6"
    ),
    "fp32": Tolerance(2e-5, "the same sums in another order through every layer; seen 1e-6 to 2e-6"),
    "fp16": Tolerance(
        2e-2,
        "11 bits of mantissa through every layer; a swapped prune or a bf16 position moves outputs by 0.1 and more",
    ),
    "bf16": Tolerance(0.1, "8 bits of mantissa through every layer"),
}
