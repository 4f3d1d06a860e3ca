"""NVIDIA A100 with TensorRT from 10.15."""

from luvc_export.engines.targets._generations import DATACENTER_SOURCES, TENSORRT_10_15, native
from luvc_export.target import Device, Target

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
