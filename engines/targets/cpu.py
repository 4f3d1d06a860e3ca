"""Any CPU with ONNX Runtime: it runs ONNX graphs, no engine is built."""

from luvc_export.core.target import Device
from luvc_export.engines.targets._generations import runs_graphs

TARGET = runs_graphs("cpu", "CPU, ONNX Runtime", "onnxruntime", (1, 24), (2,), Device())
