"""NVIDIA B200 with TensorRT from 10.15."""

from luvc_export.core.target import Device, Target
from luvc_export.engines.targets._generations import DATACENTER_SOURCES, TENSORRT_10_15, native

TARGET = Target(
    "b200",
    "NVIDIA B200",
    native("b200"),
    TENSORRT_10_15,
    Device("10.0", memory_gib=(180,)),
    kv_forms=("inplace", "concat"),
    quantised=("fp8", "nvfp4", "int8", "int4"),
    sources=DATACENTER_SOURCES | {"device.memory_gib": "https://www.nvidia.com/en-us/data-center/hgx"},
)
