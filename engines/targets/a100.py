"""NVIDIA A100 with TensorRT from 10.15."""

from luvc_export.engines.targets._generations import datacenter

TARGET = datacenter("a100", "8.0", memory_gib=(40, 80), quantised=("int8", "int4"), page="a100")
