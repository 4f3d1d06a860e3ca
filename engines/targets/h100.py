"""NVIDIA H100 with TensorRT from 10.15."""

from luvc_export.core.target import Device, Target
from luvc_export.engines.targets._generations import DATACENTER_SOURCES, TENSORRT_10_15, native

TARGET = Target(
    "h100",
    "NVIDIA H100",
    native("h100"),
    TENSORRT_10_15,
    Device("9.0", memory_gib=(80, 94)),
    kv_forms=("inplace", "concat"),
    quantised=("fp8", "int8", "int4"),
    sources=DATACENTER_SOURCES | {"device.memory_gib": "https://www.nvidia.com/en-us/data-center/h100"},
)
