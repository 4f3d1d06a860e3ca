"""NVIDIA A100 with TensorRT from 10.15."""

from luvc_export.core.target import Device, Target
from luvc_export.engines.targets._generations import DATACENTER_SOURCES, TENSORRT_10_15, native

TARGET = Target(
    "a100",
    "NVIDIA A100",
    native("a100"),
    TENSORRT_10_15,
    Device("8.0", memory_gib=(40, 80)),
    kv_forms=("inplace", "concat"),
    quantised=("int8", "int4"),
    sources=DATACENTER_SOURCES | {"device.memory_gib": "https://www.nvidia.com/en-us/data-center/a100"},
)
