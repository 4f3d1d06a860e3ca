"""NVIDIA H200 with TensorRT from 10.15."""

from luvc_export.engines.targets._generations import datacenter

TARGET = datacenter("h200", "9.0", memory_gib=(141,), quantised=("fp8", "int8", "int4"), page="h200")
