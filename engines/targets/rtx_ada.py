"""GeForce RTX 40 and RTX Ada with TensorRT-RTX 1.7; engines are built on any x86-64 Linux, without a GPU."""

from luvc_export.core.target import Device, Target
from luvc_export.engines.targets._generations import RTX_SOURCES, TENSORRT_RTX_1_7, native

TARGET = Target(
    "rtx-ada",
    "GeForce RTX 40 and RTX Ada",
    native("rtx-ada", profiles="wide"),
    TENSORRT_RTX_1_7,
    Device("8.9", memory_gib=(8, 12, 16, 24, 48)),
    kv_forms=("inplace", "concat"),
    quantised=("fp8", "int8", "int4"),
    sources=RTX_SOURCES,
)
