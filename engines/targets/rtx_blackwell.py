"""GeForce RTX 50 and RTX PRO Blackwell with TensorRT-RTX 1.7; engines are built on any x86-64 Linux, without a GPU."""

from luvc_export.core.target import Device, Target
from luvc_export.engines.targets._generations import RTX_SOURCES, TENSORRT_RTX_1_7, native

TARGET = Target(
    "rtx-blackwell",
    "GeForce RTX 50 and RTX PRO Blackwell",
    native("rtx-blackwell", profiles="wide"),
    TENSORRT_RTX_1_7,
    Device("12.0", memory_gib=(8, 12, 16, 24, 32, 96)),
    kv_forms=("inplace", "concat"),
    quantised=("fp8", "nvfp4", "int8", "int4"),
    sources=RTX_SOURCES,
)
