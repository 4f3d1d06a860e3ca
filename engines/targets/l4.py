"""NVIDIA L4 with TensorRT from 10.15."""

from luvc_export.engines.targets._generations import datacenter

TARGET = datacenter("l4", "8.9", memory_gib=(24,), quantised=("fp8", "int8", "int4"), page="l4")
