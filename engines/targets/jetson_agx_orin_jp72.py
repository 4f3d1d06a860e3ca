"""Jetson AGX Orin with JetPack 7.2."""

from luvc_export.core.target import Device, Target
from luvc_export.engines.targets._generations import JETPACK_7_2_SOURCES, TENSORRT_10_16, native

TARGET = Target(
    "jetson-agx-orin-jp72",
    "Jetson AGX Orin, JetPack 7.2",
    native("jetson-agx-orin-jp72"),
    TENSORRT_10_16,
    Device(
        "8.7", memory_gib=(32, 64), unified=True, machine="aarch64", jetpack="7.2", l4t=((39, 2), (40,)), python="3.12"
    ),
    kv_forms=("inplace", "concat"),
    quantised=("int8", "int4"),
    sources=JETPACK_7_2_SOURCES,
)
