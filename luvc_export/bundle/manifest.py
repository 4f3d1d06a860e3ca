"""``luvc.json``: what a bundle holds, frozen, JSON both ways, checked field by field when read."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass, field
from typing import Any, Literal

from luvc_export.bundle.limits import check_pixels
from luvc_export.bundle.serialisation import from_json_data
from luvc_export.core.generation_defaults import GenerationDefaults
from luvc_export.core.plan import Plan
from luvc_export.core.shapes import DecoderShape
from luvc_export.core.tiling import Tiling, TilingRule, Video
from luvc_export.errors import BundleError


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
    GPU share memory.
    """

    weights: int
    kv: int
    activations: int
    workspace: int
    loading: int

    @property
    def running(self) -> int:
        """While answering."""
        return self.weights + self.kv + self.activations

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
        kv: ``concat``, caches grow; or ``inplace``, caches have a fixed capacity and present is past (docs/surgery.md).
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
    kv: Literal["concat", "inplace"]
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


SCHEMA_VERSION = 1

Fit = Literal["pad", "stretch", "crop"]
WeightsMode = Literal["copy", "reference", "none"]


@dataclass(frozen=True)
class Source:
    """The checkpoint a bundle came from. ``sha256`` covers config and tensor headers (names, dtypes, sizes)."""

    model: str
    model_type: str
    sha256: str
    revision: str | None = None


@dataclass(frozen=True)
class ImageInput:
    """How a picture becomes the ``image`` input: fixed ``size`` (height, width), fit rule, frames per image.

    ``pad_colour`` is what the model's normalisation maps nearest to zero; ``resample`` a Pillow filter name; ``unit``
    the pixels a side of a visual unit, None in bundles of 0.1.0, which need it for nothing; ``unit_tolerance`` the
    levels of a pixel up to which buckets take a unit for foretold.
    """

    size: tuple[int, int]
    fit: Fit
    pad_colour: tuple[int, int, int]
    resample: str = "bicubic"
    frames: int = 1
    unit: int | None = None
    unit_tolerance: int = 0


@dataclass(frozen=True)
class Prompt:
    """What turns text and images into token ids and places.

    Args:
        image_token_id: The placeholder of an image; the runtime replaces it.
        eos_token_ids: Tokens that end an answer.
        text_capacity: Text tokens (prompt and answer) the bundle is sized for.
        position_kind: ``mrope`` gives a visual token (t, t + row, t + column) and goes on after the larger side of
            the grid; ``sequential`` gives it t + row * columns + column and goes on after rows * columns.
        position_copies: Original positions each merged token carries (1 unless the plan says ``multi``).
        marker: What the chat template writes for a picture; None for the image token itself.
        cuts: Ways to make images of a picture; none means that the image token alone stands for it.
        video: How a video is asked about; None where the bundle takes none.
        tiling: Which of ``cuts`` a picture gets, as the family's processor chooses.
    """

    image_token_id: int
    eos_token_ids: tuple[int, ...]
    text_capacity: int
    position_kind: Literal["mrope", "sequential"] = "mrope"
    position_copies: int = 1
    marker: str | None = None
    cuts: tuple[Tiling, ...] = ()
    video: Video | None = None
    tiling: TilingRule = "best_resolution"


@dataclass(frozen=True)
class CalibrationData:
    """What a precision was chosen with: ``sha256`` covers pixels, prompts and answers in order."""

    name: str
    sha256: str
    cases: int
    pictures: int


@dataclass(frozen=True)
class Quantisation:
    """How the graphs of a plan are quantised.

    Args:
        precision: A name of ``luvc_export.core.precision``.
        weights: File of every large tensor of both graphs, beside ``luvc.json``.
        layers: Precision of each product with weights, by the checkpoint's names: the mixed-precision map.
        recipe: How ranges and scales were chosen.
        data: What they were chosen with.
    """

    precision: str
    weights: str
    layers: dict[str, str]
    recipe: dict[str, str]
    data: CalibrationData


@dataclass(frozen=True)
class PlanEntry:
    """One exported plan: its graphs, by file name. A quantised one is a plan of its own, named with a suffix.

    ``size`` is the height and width of its images where they are not ``ImageInput.size``: see ``Bundle.sizes_of``.
    """

    plan: Plan
    vision: str
    decoder: str
    decoder_debug: str | None = None
    quantised: Quantisation | None = None
    size: tuple[int, int] | None = None


@dataclass(frozen=True)
class WeightTensor:
    """One weight: where its bytes lie. ``file`` is relative to the bundle, or to the checkpoint folder (reference).

    ``sha256`` of the bytes is recorded with ``reference``; bundles of 0.1.0 have none, and then nothing says what the
    checkpoint held when they were exported.
    """

    file: str
    offset: int
    bytes: int
    dtype: str
    shape: tuple[int, ...]
    sha256: str | None = None


@dataclass(frozen=True)
class Weights:
    """Weights of every graph: ``copy`` in the bundle, ``reference`` in ``folder``, or ``none`` (timing only)."""

    mode: WeightsMode
    folder: str | None = None
    tensors: dict[str, WeightTensor] = field(default_factory=dict)


@dataclass(frozen=True)
class Manifest:
    """The whole of ``luvc.json``. ``engines`` holds at most one entry for a plan and a target.

    ``planes`` of DeepStack follow each visual embedding. ``generation`` is how the model's makers meant answers to be
    drawn; None in bundles that were made before this was stored, which are greedy.
    """

    source: Source
    dtype: Literal["fp32", "fp16", "bf16"]
    image: ImageInput
    prompt: Prompt
    decoder: DecoderShape
    default_plan: str
    plans: dict[str, PlanEntry]
    weights: Weights
    files: dict[str, FileRecord]
    tools: dict[str, str]
    engines: tuple[EngineEntry, ...] = ()
    verified: tuple[Verified, ...] = ()
    planes: int = 0
    generation: GenerationDefaults | None = None
    schema_version: int = SCHEMA_VERSION

    @property
    def visual_width(self) -> int:
        """Last axis of ``visual_embeds``."""
        return self.decoder.hidden * (1 + self.planes)

    def to_json(self) -> dict[str, Any]:
        """Return plain data that ``from_json`` turns back into an equal manifest."""
        data: dict[str, Any] = dataclasses.asdict(dataclasses.replace(self, plans={}))
        for name, entry in self.plans.items():
            data["plans"][name] = dataclasses.asdict(entry) | {"plan": entry.plan.to_json()}
        plain: dict[str, Any] = json.loads(json.dumps(data))
        return plain

    @classmethod
    def from_json(cls, data: object, where: str) -> Manifest:
        """Build a manifest from parsed JSON; ``where`` names the file in errors.

        Raises:
            BundleError: Newer schema, a missing or unknown field, or a value of the wrong type.
        """
        version = data.get("schema_version") if isinstance(data, dict) else None
        if isinstance(version, int) and version > SCHEMA_VERSION:
            raise BundleError(
                "this bundle was written by a newer luvc-export",
                where=f"{where}: schema_version",
                got=version,
                expected=f"at most {SCHEMA_VERSION}",
                fix="pip install --upgrade luvc-export, or export the bundle again",
            )
        made = from_json_data(cls, data, where)
        for name, entry in made.plans.items():
            if entry.plan.layers != made.decoder.layers:
                raise BundleError(
                    "a plan is for a model of another depth",
                    where=f"{where}: plans.{name}",
                    got=f"{entry.plan.layers} layers",
                    expected=made.decoder.layers,
                )
        tiles = max((cut.tiles[0] * cut.tiles[1] + 1 for cut in made.prompt.cuts), default=1)
        for name, entry in made.plans.items():
            frames = made.image.frames * max(tiles, entry.plan.sharing.images)
            check_pixels(frames, entry.size or made.image.size, f"{where}: plans.{name}")
        return made
