"""GeForce RTX 40 and RTX Ada with TensorRT-RTX 1.7; engines are built on any x86-64 Linux, without a GPU."""

from luvc_export.engines.targets._generations import rtx

TARGET = rtx(
    "rtx-ada",
    "GeForce RTX 40 and RTX Ada",
    "8.9",
    memory_gib=(8, 12, 16, 24, 48),
    quantised=("fp8", "int8", "int4"),
)
