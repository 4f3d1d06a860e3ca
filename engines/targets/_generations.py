"""What several targets share: generations of TensorRT, the graphs they read, and where that is written."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

from luvc_export.core.target import (
    FINISHED,
    ORT_CPU,
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

#: Where it is written what a generation can do, by field of ``Target``.
_SOURCES: dict[str, dict[str, str]] = json.loads(Path(__file__).with_name("sources.json").read_text(encoding="utf-8"))


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


def runs_graphs(
    name: str, title: str, backend: Backend, at_least: tuple[int, ...], below: tuple[int, ...], device: Device
) -> Target:
    """A device whose library runs the bundle's own graphs: no engine is built."""
    library = Library(
        backend, at_least, below, cross_build=True, refit=False, portable=False, timing_cache=False, plugins=False
    )
    sources, graphs = _SOURCES[backend], FINISHED.get(name, {})
    return Target(
        name, title, replace(ORT_CPU, name=name), library, device, ("attention",), ("int8", "int4"), sources, graphs
    )


def datacenter(
    name: str, capability: str, memory_gib: tuple[int, ...], quantised: tuple[Quantised, ...], page: str
) -> Target:
    """A GPU with TensorRT from 10.15; NVIDIA's ``page`` on it says its memory."""
    sources = _SOURCES["datacenter"] | {"device.memory_gib": f"https://www.nvidia.com/en-us/data-center/{page}"}
    device, title = Device(capability, memory_gib), f"NVIDIA {name.upper()}"
    return Target(name, title, native(name), TENSORRT_10_15, device, ("inplace", "concat"), quantised, sources)


def rtx(
    name: str, title: str, capability: str, memory_gib: tuple[int, ...], quantised: tuple[Quantised, ...]
) -> Target:
    """GPUs with TensorRT-RTX 1.7; engines are built on any x86-64 Linux, without a GPU."""
    graphs, device = native(name, profiles="wide"), Device(capability, memory_gib)
    return Target(name, title, graphs, TENSORRT_RTX_1_7, device, ("inplace", "concat"), quantised, _SOURCES["rtx"])


def jetpack_6_2(name: str, board: str, memory_gib: tuple[int, ...]) -> Target:
    """A board of the Orin family with JetPack 6.2."""
    device = Device(
        "8.7", memory_gib, unified=True, machine="aarch64", jetpack="6.2", l4t=((36, 4), (37,)), python="3.10"
    )
    title, sources = f"{board}, JetPack 6.2", _SOURCES["jetpack_6_2"]
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
    title, sources = f"{board}, JetPack 7.2", _SOURCES["jetpack_7_2"]
    return Target(name, title, native(name), TENSORRT_10_16, device, ("inplace", "concat"), quantised, sources)
