"""What a target can do, as frozen records: passes and builders ask for a capability, never for a device's name."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Literal, get_args, get_type_hints

from luvc_export.core.plan import TENSORRT_TOPK_LIMIT
from luvc_export.errors import UsageError

#: Forms of engines: see ``TargetSpec.kv``.
EngineKv = Literal["concat", "inplace", "append"]
Dialect = Literal["onnx", "primitive"]
Kv = Literal["concat", "attention", "inplace", "append"]
Precision = Literal["fp32", "fp16", "bf16"]
Fp32Attention = Literal["native", "decomposable"]
Profiles = Literal["none", "wide", "pair"]
Backend = Literal["onnxruntime", "openvino", "tensorrt", "tensorrt_rtx"]
Quantised = Literal["int8", "int4", "fp8", "nvfp4"]
#: What a decoder's attention does with a cache in two inputs: two products, or one over rows that it joins first.
SplitCache = Literal["apart", "joined"]
#: ``inside``, or its rows given beside the logits, or a graph of its own.
Head = Literal["inside", "rows", "alone"]
#: What a finished decoder is asked for (``bundle.plan_entry``).
Role = Literal["prompts", "steps", "head"]

#: TensorRT 10.3 reads opset 9 to 20 (docs/operators.md of its ONNX parser) and nothing newer than IR 10.
PRIMITIVE_OPSET = 20
#: Opset in which ONNX gets the type that a quantised product needs (versions of QuantizeLinear).
QUANTISED_OPSETS: dict[Quantised, int] = {"int8": 10, "fp8": 19, "int4": 21, "nvfp4": 23}
#: TensorScatter, which writes a cache in place, is of opset 24.
INPLACE_OPSET = 24


@dataclass(frozen=True)
class TargetSpec:
    """Capabilities of one back-end on one device.

    Args:
        name: For people and messages only.
        dialect: ``onnx`` has Attention, RotaryEmbedding and RMSNormalization (opset 23 or 24); ``primitive`` has not.
        opset: Opset of the graphs.
        ir_version: IR version of the graphs, at most 10.
        topk_limit: Largest K of a TopK; None for no limit.
        precisions: What it computes in, best first.
        kv: How a cache grows: ``concat`` beside Attention, inside ``attention`` (past and present of Attention-23), or
            ``inplace`` (TensorScatter-24 into a cache of fixed capacity), or ``append`` (the engine reads such a cache
            and gives its new rows alone: caches in codes).
        plugins: Operators of the domain ``luvc`` it has kernels for.
        functions: It reads local ONNX functions, so fused nodes may stay as they are.
        joined_products: Products that share an input pay as one. ONNX Runtime copies a joined weight when it loads.
        packed_products: MatMulNBits of ONNX Runtime: codes of four or eight bits, their scales and zeros.
        packed_heads: Attention and RotaryEmbedding take [B, S, heads * Dh].
        bytes: Tensors of bytes may be reshaped and transposed (TensorRT takes them as network inputs only).
        softmax_precision: Attention's attribute of that name is read (TensorRT-RTX 1.7 refuses it).
        softcap: Attention's attribute of that name is read (TensorRT-RTX 1.7 refuses it).
        fp32_attention: Attention in fp32 as it stands, or only when marked decomposable.
        profiles: Optimisation profiles of an engine: none, one wide one, or prefill and decode.
        next_token: The decoder gives its most likely next token, so that greedy decoding leaves logits on the device.
        split_kv_cache: Caches are two inputs, rows that stand and the newest ones: forms it may have, best first; none
            where caches are one input. ``apart`` is for graphs of steps alone, behind rows that are there.
        grouped_heads: At a step, query heads that share a cached head are computed as its rows.
        lora_slots: A bundle's slots for adapters are in its graphs.
        visual_rows: Its graphs see images; those of steps see none.
        head: Where the last norm and the head are.

    Raises:
        UsageError: Lists every field that does not fit the others.
    """

    name: str
    dialect: Dialect
    opset: int = 23
    ir_version: int = 10
    topk_limit: int | None = TENSORRT_TOPK_LIMIT
    precisions: tuple[Precision, ...] = ("fp32",)
    kv: Kv = "concat"
    plugins: frozenset[str] = frozenset()
    functions: bool = False
    joined_products: bool = True
    packed_products: bool = False
    packed_heads: bool = False
    bytes: bool = False
    softmax_precision: bool = False
    softcap: bool = False
    fp32_attention: Fp32Attention = "native"
    profiles: Profiles = "none"
    next_token: bool = False
    split_kv_cache: tuple[SplitCache, ...] = ()
    grouped_heads: bool = False
    lora_slots: bool = True
    visual_rows: bool = True
    head: Head = "inside"

    def __post_init__(self) -> None:
        problems = []
        for name, hint in get_type_hints(TargetSpec).items():
            choices = [choice for choice in get_args(hint) if isinstance(choice, str)]
            if choices and getattr(self, name) not in choices:
                problems.append(f"{name}: got {getattr(self, name)!r}, expected one of {', '.join(choices)}")
        if self.dialect == "primitive" and self.opset > PRIMITIVE_OPSET:
            problems.append(f"opset: got {self.opset}, the primitive dialect ends at {PRIMITIVE_OPSET}")
        if self.dialect == "onnx" and self.opset not in (23, 24):
            problems.append(f"opset: got {self.opset}, the onnx dialect is 23 or 24")
        if self.kv == "inplace" and self.opset < INPLACE_OPSET:
            problems.append(f"kv: inplace needs TensorScatter of opset 24, got opset {self.opset}")
        if self.kv == "attention" and not (self.packed_heads and self.dialect == "onnx"):
            problems.append("kv: attention needs packed heads and the onnx dialect")
        if self.ir_version > 10:
            problems.append(f"ir_version: got {self.ir_version}, runtimes of the field read up to 10")
        if not self.precisions:
            problems.append("precisions: empty")
        if problems:
            lines = "\n".join(f"  - {problem}" for problem in problems)
            raise UsageError(f"the target {self.name!r} contradicts itself:\n{lines}")


def engine_form(kv: Kv) -> EngineKv:
    """The form that engines built with ``kv`` are recorded in."""
    return "concat" if kv == "attention" else kv


@dataclass(frozen=True)
class Library:
    """The library that builds and runs a target's engines.

    Args:
        backend: Its Python module.
        at_least: First version that will do, such as (10, 3).
        below: First version that will not.
        cross_build: It builds for compute capabilities this machine lacks, without a GPU even.
        refit: It builds engines whose weights can be replaced, and plans without weights.
        portable: It builds version-compatible and hardware-compatible plans.
        timing_cache: It reads and writes timing caches (TensorRT-RTX compiles on the device and keeps a runtime cache).
        plugins: Its parser takes calls of plugins (that of TensorRT-RTX 1.7 ends the process: plugins/README.md).
    """

    backend: Backend
    at_least: tuple[int, ...]
    below: tuple[int, ...]
    cross_build: bool = False
    refit: bool = True
    portable: bool = True
    timing_cache: bool = True
    plugins: bool = True

    def takes(self, version: str) -> bool:
        """Whether ``version`` (such as 10.3.0.26) is in the range."""
        numbers = tuple(int(part) for part in version.split(".") if part.isdigit())
        return self.at_least <= numbers < self.below

    @property
    def range(self) -> str:
        """The range for people: ``tensorrt >=10.3,<10.4``."""
        low, high = (".".join(map(str, end)) for end in (self.at_least, self.below))
        return f"{self.backend} >={low},<{high}"


@dataclass(frozen=True)
class Device:
    """A GPU or board, and the system it comes with.

    Args:
        compute_capability: Such as 8.7; None for a CPU.
        memory_gib: Sizes it is sold with, smallest first, in GiB as the maker counts them; empty where it is the
            host's.
        unified: CPU and GPU share that memory, so a plan held while loading counts too.
        machine: ``platform.machine()`` of the host; None for any.
        jetpack: JetPack it is flashed with, such as 6.2.
        l4t: First release of Jetson Linux that will do, and the first that will not: (36, 4), (37,).
        python: Python of that system, for wheels: 3.10.
        openvino: OpenVINO's name of its kind: ``CPU`` or ``GPU``.
    """

    compute_capability: str | None = None
    memory_gib: tuple[int, ...] = ()
    unified: bool = False
    machine: str | None = None
    jetpack: str | None = None
    l4t: tuple[tuple[int, ...], tuple[int, ...]] | None = None
    python: str | None = None
    openvino: str | None = None


@dataclass(frozen=True)
class Target:
    """One device with one generation of software.

    Args:
        name: Name of its file under engines/targets, with hyphens.
        title: For people.
        spec: What its graphs may hold. ``spec.kv`` is the form a build takes by default.
        library: What builds and runs its engines.
        device: What they run on.
        kv_forms: Forms of the cache its parser takes.
        quantised: Quantised products it has kernels for, of those that graphs of ``spec.opset`` can say.
        sources: Where each value comes from: field name to a URL or a document and its section.
        graphs: Decoders that are finished for it beside the bundle's own, in place of engines.

    Raises:
        UsageError: A quantised product needs a later opset than the target's graphs have.
    """

    name: str
    title: str
    spec: TargetSpec
    library: Library
    device: Device
    kv_forms: tuple[Kv, ...]
    quantised: tuple[Quantised, ...]
    sources: dict[str, str]
    graphs: Mapping[Role, TargetSpec] = field(default_factory=dict)

    def __post_init__(self) -> None:
        unsaid = [f"{name} (opset {QUANTISED_OPSETS[name]})" for name in self.quantised if not self.says(name)]
        if unsaid:
            raise UsageError(
                "the target's graphs have no type for a quantised product",
                where=f"{self.name}: quantised",
                got=", ".join(unsaid),
                expected=f"types of opset {self.spec.opset}",
            )

    def says(self, quantised: Quantised) -> bool:
        """Whether graphs of ``spec.opset`` have the type that this product needs."""
        return QUANTISED_OPSETS[quantised] <= self.spec.opset

    @property
    def takes_codes(self) -> bool:
        """Whether its engines take caches in codes: INT8 inputs before DQ and outputs behind Q."""
        return self.library.backend in ("tensorrt", "tensorrt_rtx") and "int8" in self.quantised

    def with_kv(self, kv: Kv) -> TargetSpec:
        """The spec with another form of the cache.

        Raises:
            UsageError: The target's parser does not take it.
        """
        if kv not in (*self.kv_forms, *(("append",) if self.takes_codes else ())):
            raise UsageError(
                "the target does not take this form of the KV cache",
                where=self.name,
                got=kv,
                expected=", ".join(self.kv_forms),
            )
        return replace(self.spec, kv=kv, opset=INPLACE_OPSET if kv == "inplace" else self.spec.opset)


#: ONNX Runtime on a CPU: no TopK limit; its Attention takes packed heads and grows the cache itself, fused nodes
#: run as fast from their bodies as inlined beforehand, and so do products apart as joined (docs/surgery.md). Bundles
#: hold graphs made for it.
ORT_CPU = TargetSpec(
    "cpu",
    "onnx",
    topk_limit=None,
    precisions=("fp32", "fp16", "bf16"),
    kv="attention",
    functions=True,
    joined_products=False,
    packed_products=True,
    packed_heads=True,
    bytes=True,
    softmax_precision=True,
    softcap=True,
)

_OPENVINO_CPU = replace(ORT_CPU, name="intel-cpu", grouped_heads=True, head="rows")
#: Decoders that exports finish at once, by target: ONNX Runtime's Attention copies a cache at each step, and OpenVINO
#: each cached head to its query heads (docs/surgery.md).
FINISHED: Mapping[str, Mapping[Role, TargetSpec]] = {
    "cpu": {"prompts": ORT_CPU, "steps": replace(ORT_CPU, split_kv_cache=("apart",), visual_rows=False)},
    "intel-cpu": {
        "prompts": replace(_OPENVINO_CPU, split_kv_cache=("joined",)),
        "steps": replace(_OPENVINO_CPU, split_kv_cache=("apart", "joined"), visual_rows=False),
        "head": replace(_OPENVINO_CPU, head="alone"),
    },
}
