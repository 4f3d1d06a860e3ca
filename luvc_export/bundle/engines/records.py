"""Records of engines in ``luvc.json``: the files, what they were built for, and devices' sign-offs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class FileRecord:
    """Hash and size of a bundle file. The other two were written by 0.1.0 for large files, and are not looked at."""

    sha256: str
    bytes: int
    edges_sha256: str | None = None
    mtime_ns: int | None = None


@dataclass(frozen=True)
class Binding:
    """One input or output of an engine. ``dtype`` is numpy's name or ``bfloat16``; -1 is a size the call decides."""

    name: str
    dtype: str
    shape: tuple[int, ...]


@dataclass(frozen=True)
class Profile:
    """Shapes an engine was built for: smallest, best and largest of every input that has an open size.

    ``name`` is ``image`` for vision engines; ``wide``, or ``prefill`` and ``decode``, for decoders.
    """

    name: str
    minimum: dict[str, tuple[int, ...]]
    optimum: dict[str, tuple[int, ...]]
    maximum: dict[str, tuple[int, ...]]


@dataclass(frozen=True)
class EngineFile:
    """One engine: an executable file, which loads only while its bytes have this hash.

    Args:
        file: Plan file, beside ``luvc.json``.
        record: Its hash and size.
        inputs: In the engine's order.
        outputs: In the engine's order.
        profiles: In the engine's order: the index is TensorRT's profile index.
        weight_bytes: Weights of the graph in the engine's precision.
        activation_bytes: Device memory of one execution context, as the builder said; None if it did not.
        layers: File with layer information, JSON.
        log: File with the builder's log.
    """

    file: str
    record: FileRecord
    inputs: tuple[Binding, ...]
    outputs: tuple[Binding, ...]
    profiles: tuple[Profile, ...]
    weight_bytes: int
    activation_bytes: int | None
    layers: str
    log: str


@dataclass(frozen=True)
class PluginLibrary:
    """Plugins that engines call: a shared library beside ``luvc.json``, loaded only while its bytes have this hash."""

    file: str
    record: FileRecord


@dataclass(frozen=True)
class Footprint:
    """Bytes of memory a pair of engines is predicted to need (``engines.memory``).

    ``loading`` is the largest plan file, held beside the weights while it is read; it counts on boards whose CPU and
    GPU share memory. ``adapters`` are the factors that are kept for a bundle's slots.
    """

    weights: int
    kv: int
    activations: int
    workspace: int
    loading: int
    adapters: int = 0

    @property
    def running(self) -> int:
        """While answering."""
        return self.weights + self.kv + self.activations + self.adapters

    @property
    def peak(self) -> int:
        """While loading or answering, whichever is more, where CPU and GPU share memory."""
        return max(self.running, self.weights + self.loading)


@dataclass(frozen=True)
class EngineEntry:
    """The two engines of one plan for one target.

    Args:
        plan: Name of the plan.
        target: Name of the target.
        precision: Arithmetic of both.
        kv: ``concat``, caches grow; ``inplace``, caches have a fixed capacity and present is past (docs/surgery.md); or
            ``append``, they have it too, hold codes, and present is the new rows.
        backend: Library that loads them.
        version: Its version that built them, all numbers.
        compute_capabilities: They run on these, such as 8.7.
        version_compatible: They load in later versions too.
        hardware_compatibility: ``none``, ``ampere+`` or ``sameComputeCapability``.
        refit: Weights can be replaced.
        stripped: Weights are not in the plan: refit before use.
        batch: Largest batch.
        images: Largest number of groups (images, or whole videos with a joint budget) of one prompt, see ``groups``.
        text_capacity: Largest number of text tokens, prompt and answer; also of one call.
        vision: Vision engine.
        decoder: Decoder engine.
        footprint: Predicted memory.
        plugins: What must be loaded before them; None for engines that call no plugins.
    """

    plan: str
    target: str
    precision: Literal["fp32", "fp16", "bf16"]
    kv: Literal["concat", "inplace", "append"]
    backend: Literal["tensorrt", "tensorrt_rtx"]
    version: str
    compute_capabilities: tuple[str, ...]
    version_compatible: bool
    hardware_compatibility: Literal["none", "ampere+", "sameComputeCapability"]
    refit: bool
    stripped: bool
    batch: int
    images: int
    text_capacity: int
    vision: EngineFile
    decoder: EngineFile
    footprint: Footprint
    plugins: PluginLibrary | None = None

    @property
    def slots(self) -> bool:
        """Whether caches have a fixed capacity, and inputs say what they hold."""
        return self.kv != "concat"

    @property
    def groups(self) -> int:
        """Largest number of groups of one prompt that share a budget; in ``luvc.json`` it is called images."""
        return self.images

    @property
    def code(self) -> tuple[EngineFile | PluginLibrary, ...]:
        """Every executable file."""
        return (self.vision, self.decoder, *([self.plugins] if self.plugins else []))


@dataclass(frozen=True)
class Verified:
    """A device's sign-off: ``install-and-verify`` of a pack ran every stored case and all passed (docs/pack.md).

    It speaks of the bytes in ``files`` alone: where they are others by now, it says nothing.

    Args:
        plan: Name of the plan.
        target: Name of the target.
        backend: What answered.
        version: Its version.
        date: UTC, ISO 8601.
        device: What the device tree calls the board; None where it says nothing.
        system: Release of Jetson Linux, such as 36.4.3; None where there is none.
        power_mode: As nvpmodel calls it; None where there is none.
        cases: How many passed.
        figures: Worst difference of each kind, and median times in milliseconds.
        warnings: What was not as it should be, though good enough.
        files: sha256 of the engines that answered, or of the graphs where there is no engine, by file name.
    """

    plan: str
    target: str
    backend: Literal["tensorrt", "tensorrt_rtx", "onnxruntime"]
    version: str
    date: str
    device: str | None
    system: str | None
    power_mode: str | None
    cases: int
    figures: dict[str, float]
    warnings: tuple[str, ...]
    files: dict[str, str]
