"""Intel GPU, OpenVINO (untested): as ``intel-cpu``, on the GPU."""

from dataclasses import replace

from luvc_export.core.target import Device
from luvc_export.engines.targets import intel_cpu

NAME = "intel-gpu"
TARGET = replace(
    intel_cpu.TARGET,
    name=NAME,
    title="Intel GPU, OpenVINO (untested)",
    spec=replace(intel_cpu.TARGET.spec, name=NAME),
    device=Device(openvino="GPU"),
    graphs={},
)
