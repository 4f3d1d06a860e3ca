"""NVIDIA H100 with TensorRT from 10.15."""

from luvc_export.engines.targets._generations import datacenter

TARGET = datacenter("h100", "9.0", memory_gib=(80, 94), quantised=("fp8", "int8", "int4"), page="h100")
