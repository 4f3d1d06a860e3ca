"""Intel GPU, OpenVINO (untested): as ``intel-cpu``, on the GPU."""

from luvc_export.core.target import Device
from luvc_export.engines.targets._generations import runs_graphs

TARGET = runs_graphs(
    "intel-gpu", "Intel GPU, OpenVINO (untested)", "openvino", (2026, 4), (2027,), Device(openvino="GPU")
)
