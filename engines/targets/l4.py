"""NVIDIA L4 with TensorRT from 10.15."""

from luvc_export.engines.targets._generations import DATACENTER_SOURCES, TENSORRT_10_15, native
from luvc_export.target import Device, Target

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
