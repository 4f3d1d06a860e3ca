"""Intel or AMD CPU, OpenVINO: it runs ONNX graphs, no engine is built."""

from dataclasses import replace

from luvc_export.core.target import FINISHED, ORT_CPU, Device, Target
from luvc_export.engines.targets._generations import runs_graphs

TARGET = Target(
    "intel-cpu",
    "Intel or AMD CPU, OpenVINO",
    replace(ORT_CPU, name="intel-cpu"),
    runs_graphs("openvino", (2026, 4), (2027,)),
    Device(openvino="CPU"),
    kv_forms=("attention",),
    quantised=("int8", "int4"),
    sources={
        "spec": "docs/openvino.md: functions are written out at load, the graphs are those of ONNX Runtime",
        "library": "pyproject.toml: the extra openvino",
        "device": "https://docs.openvino.ai/2026/openvino-workflow/running-inference/inference-devices-and-modes.html",
        "kv_forms": "docs/surgery.md",
        "graphs": "docs/surgery.md",
        "quantised": "docs/openvino.md, read from the runtime model of the CPU plug-in",
    },
    graphs=FINISHED["intel-cpu"],
)
