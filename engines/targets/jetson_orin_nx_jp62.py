"""Jetson Orin NX with JetPack 6.2."""

from luvc_export.core.target import Device, Target
from luvc_export.engines.targets._generations import JETPACK_6_2_SOURCES, TENSORRT_10_3, primitive

TARGET = Target(
    "jetson-orin-nx-jp62",
    "Jetson Orin NX, JetPack 6.2",
    primitive("jetson-orin-nx-jp62"),
    TENSORRT_10_3,
    Device(
        "8.7", memory_gib=(8, 16), unified=True, machine="aarch64", jetpack="6.2", l4t=((36, 4), (37,)), python="3.10"
    ),
    kv_forms=("concat",),
    quantised=("int8",),
    sources=JETPACK_6_2_SOURCES,
)
