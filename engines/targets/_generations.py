"""What several targets share: generations of TensorRT, the graphs they read, and where that is written."""

from __future__ import annotations

from luvc_export.core.target import (
    PRIMITIVE_OPSET,
    Backend,
    Device,
    Library,
    Precision,
    Profiles,
    Quantised,
    Target,
    TargetSpec,
)

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


def runs_graphs(backend: Backend, at_least: tuple[int, ...], below: tuple[int, ...]) -> Library:
    """A library that runs the bundle's own graphs: no engine is built."""
    return Library(
        backend, at_least, below, cross_build=True, refit=False, portable=False, timing_cache=False, plugins=False
    )


def datacenter(
    name: str, capability: str, memory_gib: tuple[int, ...], quantised: tuple[Quantised, ...], page: str
) -> Target:
    """A GPU with TensorRT from 10.15; NVIDIA's ``page`` on it says its memory."""
    sources = DATACENTER_SOURCES | {"device.memory_gib": f"https://www.nvidia.com/en-us/data-center/{page}"}
    device, title = Device(capability, memory_gib), f"NVIDIA {name.upper()}"
    return Target(name, title, native(name), TENSORRT_10_15, device, ("inplace", "concat"), quantised, sources)


def rtx(
    name: str, title: str, capability: str, memory_gib: tuple[int, ...], quantised: tuple[Quantised, ...]
) -> Target:
    """GPUs with TensorRT-RTX 1.7; engines are built on any x86-64 Linux, without a GPU."""
    graphs, device = native(name, profiles="wide"), Device(capability, memory_gib)
    return Target(name, title, graphs, TENSORRT_RTX_1_7, device, ("inplace", "concat"), quantised, RTX_SOURCES)


def jetpack_6_2(name: str, board: str, memory_gib: tuple[int, ...]) -> Target:
    """A board of the Orin family with JetPack 6.2."""
    device = Device(
        "8.7", memory_gib, unified=True, machine="aarch64", jetpack="6.2", l4t=((36, 4), (37,)), python="3.10"
    )
    title, sources = f"{board}, JetPack 6.2", JETPACK_6_2_SOURCES
    return Target(name, title, primitive(name), TENSORRT_10_3, device, ("concat",), ("int8",), sources)


def jetpack_7_2(
    name: str,
    board: str,
    memory_gib: tuple[int, ...],
    capability: str = "8.7",
    quantised: tuple[Quantised, ...] = ("int8", "int4"),
) -> Target:
    """A board with JetPack 7.2, of the Orin family unless its capability is another."""
    device = Device(
        capability, memory_gib, unified=True, machine="aarch64", jetpack="7.2", l4t=((39, 2), (40,)), python="3.12"
    )
    title, sources = f"{board}, JetPack 7.2", JETPACK_7_2_SOURCES
    return Target(name, title, native(name), TENSORRT_10_16, device, ("inplace", "concat"), quantised, sources)
