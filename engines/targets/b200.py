"""NVIDIA B200 with TensorRT from 10.15."""

from luvc_export.engines.targets._generations import datacenter

TARGET = datacenter("b200", "10.0", memory_gib=(180,), quantised=("fp8", "nvfp4", "int8", "int4"), page="hgx")
