"""Precisions a bundle's graphs can be quantised to, and which targets take them.

Names and file suffixes are those of the ONNX community's folders (huggingface.co/docs/transformers.js, "dtypes"): an
``int8`` plan is ``decoder.PLAN_int8.onnx``.
"""

from __future__ import annotations

from dataclasses import dataclass

from luvc_export.core.options import choice
from luvc_export.core.plan.names import quantised_name
from luvc_export.core.target import Kv, Quantised, Target
from luvc_export.errors import UsageError


@dataclass(frozen=True)
class QuantisedPrecision:
    """One way to quantise.

    Args:
        name: What users say.
        suffix: Of plan and file names.
        arithmetic: What a target must have kernels for.
        weights: Bits of a weight.
        ranges: Activations are quantised by ranges from data.
        portable: Explicit Q/DQ of ONNX, which TensorRT reads; otherwise operators of ONNX Runtime.
        title: For people.
    """

    name: str
    suffix: str
    arithmetic: Quantised
    weights: int
    ranges: bool
    portable: bool
    title: str

    @property
    def tensorrt_only(self) -> bool:
        """ONNX Runtime cannot run it: it has no FP4 (1.31)."""
        return self.arithmetic == "nvfp4"

    @property
    def mixed(self) -> bool:
        """Products of four and of eight bits can stand beside each other: ``MatMulNBits`` has both."""
        return self.weights == 4 and not self.portable

    def plan_name(self, plan: str, root: str | None = None, named: str = "") -> str:
        """Name of ``plan``, a variant of ``root`` (None: of none), in this precision, or where it is ``named`` so."""
        return quantised_name(plan, root or plan, self.suffix, named)


PRECISIONS: dict[str, QuantisedPrecision] = {
    item.name: item
    for item in (
        QuantisedPrecision("int8", "_int8", "int8", 8, True, True, "INT8 weights and activations, explicit Q/DQ"),
        QuantisedPrecision("fp8", "_fp8", "fp8", 8, True, True, "FP8 E4M3 weights and activations, explicit Q/DQ"),
        QuantisedPrecision("int4", "_int4", "int4", 4, False, True, "INT4 weights in blocks, explicit DQ"),
        QuantisedPrecision(
            "nvfp4", "_nvfp4", "nvfp4", 4, True, True, "FP4 E2M1 weights and activations in blocks of 16"
        ),
        QuantisedPrecision("nvfp4a16", "_nvfp4a16", "nvfp4", 4, False, True, "FP4 E2M1 weights in blocks of 16"),
        QuantisedPrecision("q8", "_quantized", "int8", 8, False, False, "INT8 weights, activations as they come (CPU)"),
        QuantisedPrecision("q4", "_q4", "int4", 4, False, False, "INT4 weights in blocks, MatMulNBits (CPU)"),
        QuantisedPrecision("q4f16", "_q4f16", "int4", 4, False, False, "as q4, in a bundle of dtype fp16"),
    )
}


#: What a product of a ``mixed`` precision is computed in whose weights four bits would harm too much.
WIDE = "int8"

#: What caches of keys and values can be stored in beside the precision of the graphs, and the suffix of such plans.
CACHES = {"int8": "_kv8"}
#: What the arithmetic of such a plan ends in, in reports.
CODED_CACHES = " with int8 caches"
#: What some engines store caches in and graphs here do not, and why.
_REFUSED_CACHES = {"fp8": "at equal bytes it rounds keys two to nine times as coarsely as codes, values four times"}


def check_caches(name: str) -> None:
    """Check that caches can be stored in ``name``.

    Raises:
        UsageError: They cannot; says why.
    """
    if name in _REFUSED_CACHES:
        raise UsageError(
            f"caches are not stored in {name}: {_REFUSED_CACHES[name]}",
            where="--kv",
            got=name,
            expected=", ".join(CACHES),
            fix="--kv int8",
        )
    choice("--kv", name, CACHES, "unsupported precision of caches")


def check_caches_target(target: Target) -> None:
    """Check that ``target`` runs graphs whose caches are codes.

    Raises:
        UsageError: It does not.
    """
    if target.library.backend not in ("onnxruntime", "openvino") and not target.takes_codes:
        raise UsageError(
            f"{target.title} cannot run this plan: it has no INT8, and its caches are codes",
            where=f"--target {target.name}",
            got="caches in int8",
            expected="a plan whose caches are in the precision of its graphs",
            fix="build the plan it was made of",
        )


def form_of_codes(target: Target, asked: Kv | None) -> Kv:
    """The form of the caches of an engine whose caches are codes, where a build asked for this form or for none.

    Raises:
        UsageError: The target takes no codes, or not in the form that was asked for.
    """
    check_caches_target(target)
    if asked not in (None, "append"):
        raise UsageError(
            "engines whose caches are codes have a form of their own",
            where=f"--kv {asked}",
            got="TensorRT-RTX 1.7 refuses TensorScatter of INT8"
            if asked == "inplace"
            else "TensorRT 10.3 takes INT8 between Q and DQ alone, so it joins no codes",
            expected="slots of fixed capacity behind which new rows are put (docs/surgery.md)",
            fix="leave --kv out, or build the plan it was made of",
        )
    return "append"


def find(name: str) -> QuantisedPrecision:
    """The precision called ``name``.

    Raises:
        UsageError: There is none.
    """
    choice("--precision", name, PRECISIONS, "unsupported precision")
    return PRECISIONS[name]


def check_target(precision: QuantisedPrecision, target: Target) -> None:
    """Check that ``target`` runs ``precision``.

    Raises:
        UsageError: It does not; says which ones it runs.
    """
    reason = _refusal(precision, target)
    if reason:
        fits = [item.name for item in PRECISIONS.values() if _refusal(item, target) is None]
        raise UsageError(
            f"{target.title} cannot run this precision: {reason}",
            where=f"--target {target.name}",
            got=precision.name,
            expected=", ".join([*fits, *target.spec.precisions]),
        )


def _refusal(precision: QuantisedPrecision, target: Target) -> str | None:
    if not precision.portable and target.library.backend not in ("onnxruntime", "openvino"):
        return f"{target.library.backend} does not read operators of ONNX Runtime"
    if not target.says(precision.arithmetic):
        return f"its graphs end at opset {target.spec.opset}, which has no type for {precision.arithmetic.upper()}"
    if precision.arithmetic not in target.quantised:
        return f"it has no {precision.arithmetic.upper()} kernels"
    return None
