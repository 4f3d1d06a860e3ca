"""GeForce RTX 50 and RTX PRO Blackwell with TensorRT-RTX 1.7; engines are built on any x86-64 Linux, without a GPU."""

from luvc_export.engines.targets._generations import rtx

TARGET = rtx(
    "rtx-blackwell",
    "GeForce RTX 50 and RTX PRO Blackwell",
    "12.0",
    memory_gib=(8, 12, 16, 24, 32, 96),
    quantised=("fp8", "nvfp4", "int8", "int4"),
)
