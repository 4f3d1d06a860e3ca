"""Element types of tensors, by every name they have: ours, numpy's, ONNX's, safetensors', TensorRT's, DLPack's.

A bundle's arithmetic is fp32, fp16 or bf16 (``Precision``); everything that stores or moves tensors looks the rest up
here. numpy has no bf16 and no fp8: where such tensors are mapped, it sees their bits (``storage``).
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class ElementType:
    """One element type.

    Args:
        name: As numpy and torch write it, and as ``luvc.json`` does.
        itemsize: Bytes.
        onnx: ``TensorProto.DataType`` (onnx.proto).
        storage: The numpy type that holds its bits.
        precision: What ``--dtype`` and ``--precision`` call it; empty where nothing is computed in it.
        safetensors: Its name in a safetensors header.
        tensorrt: Its name in ``tensorrt.DataType``.
        dlpack: ``DLDataTypeCode`` (dlpack.h), None where no tensor of it is exchanged.
    """

    name: str
    itemsize: int
    onnx: int
    storage: str
    precision: str = ""
    safetensors: str = ""
    tensorrt: str = ""
    dlpack: int | None = None


ELEMENT_TYPES = (
    ElementType("float32", 4, 1, "float32", "fp32", "F32", "FLOAT", 2),
    ElementType("float16", 2, 10, "float16", "fp16", "F16", "HALF", 2),
    ElementType("bfloat16", 2, 16, "uint16", "bf16", "BF16", "BF16", 4),
    ElementType("float64", 8, 11, "float64", safetensors="F64"),
    ElementType("float8_e4m3fn", 1, 17, "uint8", "fp8", "F8_E4M3"),
    ElementType("int64", 8, 7, "int64", safetensors="I64", tensorrt="INT64", dlpack=0),
    ElementType("int32", 4, 6, "int32", safetensors="I32", tensorrt="INT32", dlpack=0),
    ElementType("int8", 1, 3, "int8", safetensors="I8", tensorrt="INT8"),
    ElementType("uint8", 1, 2, "uint8", safetensors="U8", tensorrt="UINT8", dlpack=1),
    ElementType("bool", 1, 9, "bool", safetensors="BOOL", tensorrt="BOOL", dlpack=6),
)

BY_NAME = {kind.name: kind for kind in ELEMENT_TYPES}
BY_ONNX = {kind.onnx: kind for kind in ELEMENT_TYPES}
BY_PRECISION = {kind.precision: kind for kind in ELEMENT_TYPES if kind.precision}
BY_SAFETENSORS = {kind.safetensors: kind for kind in ELEMENT_TYPES if kind.safetensors}
BY_TENSORRT = {kind.tensorrt: kind for kind in ELEMENT_TYPES if kind.tensorrt}
#: By each of our, numpy's and safetensors' names, in lower case: what a stranger's ``luvc.json`` may say.
BY_ANY_NAME = {
    name.lower(): kind for kind in ELEMENT_TYPES for name in (kind.name, kind.precision, kind.safetensors) if name
}
