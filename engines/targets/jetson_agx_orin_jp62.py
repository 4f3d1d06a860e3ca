"""Jetson AGX Orin with JetPack 6.2."""

from luvc_export.core.target import Device, Target
from luvc_export.engines.targets._generations import JETPACK_6_2_SOURCES, TENSORRT_10_3, primitive

TARGET = Target(
    "jetson-agx-orin-jp62",
    "Jetson AGX Orin, JetPack 6.2",
    primitive("jetson-agx-orin-jp62"),
    TENSORRT_10_3,
    Device(
        "8.7", memory_gib=(32, 64), unified=True, machine="aarch64", jetpack="6.2", l4t=((36, 4), (37,)), python="3.10"
    ),
    kv_forms=("concat",),
    quantised=("int8",),
    sources=JETPACK_6_2_SOURCES,
)
