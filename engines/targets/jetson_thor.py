"""Jetson Thor with JetPack 7.2; JetPack 7.0 and 7.1 hold TensorRT 10.13, which has no Attention."""

from luvc_export.core.target import Device, Target
from luvc_export.engines.targets._generations import JETPACK_7_2_SOURCES, TENSORRT_10_16, native

TARGET = Target(
    "jetson-thor",
    "Jetson Thor, JetPack 7.2",
    native("jetson-thor"),
    TENSORRT_10_16,
    Device(
        "11.0",
        memory_gib=(64, 128),
        unified=True,
        machine="aarch64",
        jetpack="7.2",
        l4t=((39, 2), (40,)),
        python="3.12",
    ),
    kv_forms=("inplace", "concat"),
    quantised=("fp8", "nvfp4", "int8", "int4"),
    sources=JETPACK_7_2_SOURCES,
)
