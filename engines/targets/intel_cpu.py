"""Intel or AMD CPU, OpenVINO: it runs ONNX graphs, no engine is built."""

from luvc_export.core.target import Device
from luvc_export.engines.targets._generations import runs_graphs

TARGET = runs_graphs("intel-cpu", "Intel or AMD CPU, OpenVINO", "openvino", (2026, 4), (2027,), Device(openvino="CPU"))
