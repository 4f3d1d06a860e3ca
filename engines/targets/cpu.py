"""Any CPU with ONNX Runtime: it runs ONNX graphs, no engine is built."""

from luvc_export.core.target import FINISHED, ORT_CPU, Device, Target
from luvc_export.engines.targets._generations import runs_graphs

TARGET = Target(
    "cpu",
    "CPU, ONNX Runtime",
    ORT_CPU,
    runs_graphs("onnxruntime", (1, 24), (2,)),
    Device(),
    kv_forms=("attention",),
    quantised=("int8", "int4"),
    sources={
        "spec": "docs/surgery.md, measured in docs/results/surgery.md",
        "library": "pyproject.toml: the extra cpu, which the tests run on",
        "kv_forms": "docs/surgery.md",
        "graphs": "docs/surgery.md",
        "quantised": "https://onnxruntime.ai/docs/performance/model-optimizations/quantization.html",
    },
    graphs=FINISHED["cpu"],
)
