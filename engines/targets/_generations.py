"""What several targets share: generations of TensorRT, the graphs they read, and where that is written."""

from __future__ import annotations

from luvc_export.core.target import PRIMITIVE_OPSET, Library, Precision, Profiles, TargetSpec

_FLOATS: tuple[Precision, ...] = ("fp16", "bf16", "fp32")

#: JetPack 6.2 stays at TensorRT 10.3.
TENSORRT_10_3 = Library("tensorrt", (10, 3), (10, 4))
#: JetPack 7.2 comes with 10.16, 7.2.2 takes 11.4 as well.
TENSORRT_10_16 = Library("tensorrt", (10, 16), (12,))
#: The first whose parser has Attention, RotaryEmbedding, RMSNormalization and TensorScatter, up to the newest major.
TENSORRT_10_15 = Library("tensorrt", (10, 15), (12,))
#: Versions differ in their ABI from minor to minor; kernels are compiled on the device, so nothing is timed here.
TENSORRT_RTX_1_7 = Library(
    "tensorrt_rtx", (1, 7), (1, 8), cross_build=True, portable=False, timing_cache=False, plugins=False
)

CUDA_GPUS = "https://developer.nvidia.com/cuda-gpus"
JETSON_MODULES = "https://developer.nvidia.com/embedded/jetson-modules"
SUPPORT_MATRIX = "https://docs.nvidia.com/deeplearning/tensorrt/latest/getting-started/support-matrix.html"
RTX_SUPPORT_MATRIX = "https://docs.nvidia.com/deeplearning/tensorrt-rtx/latest/getting-started/support-matrix.html"
_JETPACK_7_2 = (
    "https://developer.nvidia.com/blog/deploy-agentic-ready-ai-at-the-edge-with-memory-efficiency-in-nvidia-jetpack-7-2"
)
_EDGE_LLM_217 = "https://github.com/NVIDIA/TensorRT-Edge-LLM/issues/217 (10.16.1.11 on JetPack 7.2)"
_OPERATORS = "docs/operators.md of github.com/onnx/onnx-tensorrt"

JETPACK_6_2_SOURCES = {
    "spec.dialect": f"{_OPERATORS}, branch 10.1-GA: opset 9 to 20, no Attention, no RotaryEmbedding",
    "library": "https://developer.nvidia.com/embedded/jetpack-sdk-62 (TensorRT 10.3, CUDA 12.6)",
    "device.l4t": "https://developer.nvidia.com/embedded/jetpack-sdk-62 (Jetson Linux 36.4.3)",
    "device.python": "https://developer.nvidia.com/embedded/jetpack-sdk-62 (Ubuntu 22.04, whose Python is 3.10)",
    "device.compute_capability": CUDA_GPUS,
    "device.memory_gib": JETSON_MODULES,
    "quantised": f"{SUPPORT_MATRIX}, hardware and precision, 8.7: no FP8; {_OPERATORS}, branch 10.1-GA: opset 9 to 20, "
    "and ONNX has INT4 from 21",
    "kv_forms": f"{_OPERATORS}, branch 10.1-GA: no TensorScatter",
}
JETPACK_7_2_SOURCES = {
    "spec.dialect": f"{_OPERATORS}, from 10.15: Attention, RotaryEmbedding, RMSNormalization, TensorScatter",
    "library": f"{_EDGE_LLM_217}; 11.4 on 7.2.2: release notes of TensorRT 11.4.1; names of Python: "
    "tests/engines/tensorrt_api.json up to 11.4",
    "device.l4t": f"{_JETPACK_7_2} (Jetson Linux 39.2)",
    "device.python": f"{_JETPACK_7_2} (Ubuntu 24.04, whose Python is 3.12)",
    "device.compute_capability": CUDA_GPUS,
    "device.memory_gib": JETSON_MODULES,
    "quantised": f"{SUPPORT_MATRIX}, hardware and precision",
    "kv_forms": f"{_OPERATORS}, from 10.15: TensorScatter",
}
DATACENTER_SOURCES = {
    "spec.dialect": f"{_OPERATORS}, from 10.15: Attention, RotaryEmbedding, RMSNormalization, TensorScatter",
    "library": f"{_OPERATORS}, from 10.15, and of 11.1; names of Python: tests/engines/tensorrt_api.json up to 11.4",
    "device.compute_capability": CUDA_GPUS,
    "quantised": f"{SUPPORT_MATRIX}, hardware and precision",
    "kv_forms": f"{_OPERATORS}, from 10.15: TensorScatter",
}
RTX_SOURCES = {
    "spec.dialect": "tests/export/surgeon/test_rtx.py and tests/engines: built with tensorrt-rtx 1.7.1.116",
    "library": "tests/engines: built with tensorrt-rtx 1.7.1.116",
    "library.plugins": "docs/engines.md, Plugins: tensorrt-rtx 1.7.1.116 ends the process",
    "device.compute_capability": RTX_SUPPORT_MATRIX,
    "device.memory_gib": "https://www.nvidia.com/en-us/geforce/graphics-cards/compare",
    "quantised": RTX_SUPPORT_MATRIX,
    "kv_forms": "tests/engines: both built with tensorrt-rtx 1.7.1.116",
}


def primitive(name: str) -> TargetSpec:
    """Graphs of TensorRT 10.3 to 10.13: plain operators, caches joined, a prefill and a decode profile."""
    return TargetSpec(name, "primitive", opset=PRIMITIVE_OPSET, precisions=_FLOATS, profiles="pair", next_token=True)


def native(name: str, profiles: Profiles = "pair") -> TargetSpec:
    """Graphs of TensorRT from 10.15 and of TensorRT-RTX: Attention and the rest as they are, caches in place."""
    return TargetSpec(
        name,
        "onnx",
        opset=24,
        precisions=_FLOATS,
        kv="inplace",
        fp32_attention="decomposable",
        profiles=profiles,
        next_token=True,
    )
