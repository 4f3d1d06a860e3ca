"""Jetson Thor with JetPack 7.2; JetPack 7.0 and 7.1 hold TensorRT 10.13, which has no Attention."""

from luvc_export.engines.targets._generations import jetpack_7_2

TARGET = jetpack_7_2(
    "jetson-thor",
    "Jetson Thor",
    memory_gib=(64, 128),
    capability="11.0",
    quantised=("fp8", "nvfp4", "int8", "int4"),
)
