"""NVIDIA L4 with TensorRT from 10.15."""

from luvc_export.core.target import Device, Target
from luvc_export.engines.targets._generations import DATACENTER_SOURCES, TENSORRT_10_15, native

TARGET = Target(
    "l4",
    "NVIDIA L4",
    native("l4"),
    TENSORRT_10_15,
    Device("8.9", memory_gib=(24,)),
    kv_forms=("inplace", "concat"),
    quantised=("fp8", "int8", "int4"),
    sources=DATACENTER_SOURCES | {"device.memory_gib": "https://www.nvidia.com/en-us/data-center/l4"},
)
