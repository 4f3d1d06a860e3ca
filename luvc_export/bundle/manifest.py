"""``luvc.json``: what a bundle holds, frozen, JSON both ways, checked field by field when read."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Collection
from dataclasses import dataclass, field
from typing import Any, Literal

from luvc_export.bundle.engines.records import Binding as Binding
from luvc_export.bundle.engines.records import EngineEntry as EngineEntry
from luvc_export.bundle.engines.records import EngineFile as EngineFile
from luvc_export.bundle.engines.records import FileRecord as FileRecord
from luvc_export.bundle.engines.records import Footprint as Footprint
from luvc_export.bundle.engines.records import PluginLibrary as PluginLibrary
from luvc_export.bundle.engines.records import Profile as Profile
from luvc_export.bundle.engines.records import Verified as Verified
from luvc_export.bundle.manifest_checks import check_lora, check_pixels, check_states, check_task, check_video
from luvc_export.bundle.plan_entry import SCHEMA_1, check_sets, with_facts
from luvc_export.bundle.plan_entry import CacheQuantisation as CacheQuantisation
from luvc_export.bundle.plan_entry import CalibrationData as CalibrationData
from luvc_export.bundle.plan_entry import GraphSet as GraphSet
from luvc_export.bundle.plan_entry import PlanEntry as PlanEntry
from luvc_export.bundle.plan_entry import Quantisation as Quantisation
from luvc_export.core import graph_io, tasks
from luvc_export.core.files.json_records import from_json_data
from luvc_export.core.generation_defaults import GenerationDefaults
from luvc_export.core.precision import CACHES
from luvc_export.core.shapes import DecoderShape, State, in_codes
from luvc_export.core.tasks import Embedding, Task
from luvc_export.core.tiling import Prefix, Tiling, TilingRule, Video
from luvc_export.errors import BundleError

SCHEMA_VERSION = 6
#: That of bundles without states beside the caches, which are written as before.
_WITHOUT_STATES = 2
#: That of bundles whose states name no window: what left one stays in their caches. Written so as before.
_WITHOUT_WINDOWS = 3
#: That of bundles without finished graphs. Written so as before.
_WITHOUT_SETS = 4
#: That of bundles that generate: only another task is written in the newest schema.
_WITHOUT_TASK = 5
#: Of ``Video``, in the JSON only where there are some.
_AROUND = ("opening", "between", "closing", "pooled", "template", "tokens")

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
            the grid; ``sequential`` gives it t + row * columns + column and goes on after rows * columns; ``xdrope``
            also its column, its row and the number of its picture in the conversation.
        position_copies: Original positions each merged token carries (1 unless the plan says ``multi``).
        marker: What the chat template writes for a picture; None for the image token itself.
        cuts: Ways to make images of a picture; none means that the image token alone stands for it.
        video: How a video is asked about; None where the bundle takes none.
        tiling: Which of ``cuts`` a picture gets, as the family's processor chooses.
        prefix: What stands around a prompt that is seen both ways; None where prompts are causal.
    """

    image_token_id: int
    eos_token_ids: tuple[int, ...]
    text_capacity: int
    position_kind: Literal["mrope", "sequential", "xdrope"] = "mrope"
    position_copies: int = 1
    marker: str | None = None
    cuts: tuple[Tiling, ...] = ()
    video: Video | None = None
    tiling: TilingRule = "best_resolution"
    prefix: Prefix | None = None


@dataclass(frozen=True)
class Vocabulary:
    """A head with some of the rows; token ids, embeddings and the width of the logits are those of the whole.

    Args:
        kept: Tokens that answers may hold.
        of: Tokens of the tokenizer's vocabulary, of which any may be asked.
        source: What they were chosen by.
    """

    kept: int
    of: int
    source: str

    def __str__(self) -> str:
        return f"answers are written with {self.kept:,} of {self.of:,} tokens, chosen by {self.source}"


#: Sets of adapters whose factors are kept as a back-end takes them. A server's prompts take turns with its rows.
MOST_SETS = 3


@dataclass(frozen=True)
class LoraSlots:
    """Products of the LLM that take an adapter's two factors as inputs of the graph.

    Args:
        rank: Largest rank that an adapter may have.
        prefix: What the model's names of its layers begin with, such as ``model.language_model.layers``.
        modules: Each module's path in its layer by the name its slots have: the path's last part (``q_proj`` is
            ``self_attn.q_proj``), or the whole path where several end in that (``conv.out_proj``).
        slots: Inputs and outputs of each product by layer and module: ``3.q_proj`` has (2048, 2048).
    """

    rank: int
    prefix: str
    modules: dict[str, str]
    slots: dict[str, tuple[int, int]]

    @property
    def inputs(self) -> frozenset[str]:
        """Names of the decoder's inputs that they are."""
        named = (slot.partition(".") for slot in self.slots)
        factors = (name for layer, _, module in named for name in graph_io.lora_names(int(layer), module))
        return frozenset((graph_io.LORA_ROWS, *factors))

    def kept_bytes(self, ranks: int, itemsize: int) -> int:
        """Bytes of all sets of adapters that are kept, each with ``ranks`` side by side of ``itemsize`` bytes."""
        return MOST_SETS * ranks * itemsize * sum(map(sum, self.slots.values()))


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
class StoredCodes:
    """Weights that the checkpoint stored quantised, and the bundle holds as they were.

    Args:
        method: The checkpoint's ``quant_method``.
        file: Of the bundle, where they lie.
        products: What each weight is, by its name in the model: int4, int8 or fp8.
        bytes: Of codes, scales and zeros.
        numbers: How many weights they stand for.
        notes: What a user should know of them, a line each.
    """

    method: str
    file: str
    products: dict[str, str]
    bytes: int
    numbers: int
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Weights:
    """Weights of every graph: ``copy`` in the bundle, ``reference`` in ``folder``, or ``none`` (timing only).

    ``stored`` are those that the checkpoint had quantised; None where it had none.
    """

    mode: WeightsMode
    folder: str | None = None
    tensors: dict[str, WeightTensor] = field(default_factory=dict)
    stored: StoredCodes | None = None


@dataclass(frozen=True)
class Manifest:
    """The whole of ``luvc.json``. ``engines`` holds at most one entry for a plan and a target.

    ``sets`` are finished graphs, one for a plan and a target, and one with slots beside one without.
    ``planes`` of DeepStack follow each visual embedding. ``generation`` is how the model's makers meant answers to be
    drawn; None in bundles that were made before this was stored, which are greedy. ``vocabulary`` is the part
    that a reduced head has rows for; None for all. ``lora`` are the slots for adapters; None where it has none.
    ``task`` is what it is made for (``core.tasks``), ``embedding`` how vectors are made where nothing is decoded.
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
    vocabulary: Vocabulary | None = None
    lora: LoraSlots | None = None
    sets: tuple[GraphSet, ...] = ()
    task: str = "generate"
    embedding: Embedding | None = None
    schema_version: int = SCHEMA_VERSION

    @property
    def visual_width(self) -> int:
        """Last axis of ``visual_embeds``."""
        return self.decoder.hidden * (1 + self.planes)

    @property
    def does(self) -> Task:
        """What it is made for."""
        return tasks.find(self.task)

    @property
    def row_width(self) -> int:
        """Numbers of each row of the decoder's output."""
        how = self.embedding
        return self.decoder.vocab if how is None else how.width or self.decoder.hidden

    @property
    def head_rows(self) -> int:
        """Tokens that the head has rows for."""
        return self.decoder.vocab if self.vocabulary is None else self.vocabulary.kept

    def states_of(self, entry: PlanEntry) -> tuple[State, ...]:
        """All that a conversation under a plan consists of, in graph order."""
        kept = self.decoder.kept if self.does.decodes else ()
        return kept if entry.caches is None else in_codes(kept, "float32" if self.dtype == "fp32" else "float16")

    def graphs_of(self, name: str) -> set[str]:
        """Files of plan ``name`` that are graphs: its own, and those that were finished for targets."""
        entry = self.plans[name]
        own = {entry.vision, entry.decoder, *filter(None, [entry.decoder_debug])}
        return own.union(*(one.files for one in self.sets if one.plan == name))

    def files_of(self, name: str) -> set[str]:
        """Every file of plan ``name``: its graphs, and weights of its own where it was quantised."""
        quantised = self.plans[name].quantised
        return self.graphs_of(name) | ({quantised.weights} if quantised else set())

    def without_sets(self, plans: Collection[str], targets: Collection[str] | None = None) -> Manifest:
        """The same without the finished graphs of ``plans`` for ``targets`` (None: all), and without their files."""
        gone = [one for one in self.sets if one.plan in plans and (targets is None or one.target in targets)]
        sets = tuple(one for one in self.sets if one not in gone)
        kept = {file for one in sets for file in one.files} | {entry.decoder for entry in self.plans.values()}
        dropped = {file for one in gone for file in one.files} - kept
        files = {name: known for name, known in self.files.items() if name not in dropped}
        return dataclasses.replace(self, sets=sets, files=files)

    def to_json(self) -> dict[str, Any]:
        """Return plain data that ``from_json`` turns back into an equal manifest."""
        data: dict[str, Any] = dataclasses.asdict(dataclasses.replace(self, plans={}))
        for name, entry in self.plans.items():
            data["plans"][name] = dataclasses.asdict(entry) | {"plan": entry.plan.to_json()}
            if entry.caches is None:  # versions that know no codes go on reading what holds none
                del data["plans"][name]["caches"]
        if data["prompt"]["video"]:  # likewise of what only some families write around frames
            plain_video = {
                name: value for name, value in data["prompt"]["video"].items() if value or name not in _AROUND
            }
            data["prompt"]["video"] = plain_video
        if not self.decoder.states:
            del data["decoder"]["states"]
        if self.task == "generate":  # likewise of tasks
            data["schema_version"] = _WITHOUT_TASK
            del data["task"], data["embedding"]
        if not self.sets:
            del data["sets"]
        if not self.sets and self.task == "generate":
            windows = any(state.window for state in self.decoder.states)
            data["schema_version"] = _WITHOUT_SETS if windows else _WITHOUT_WINDOWS
            data["schema_version"] = data["schema_version"] if self.decoder.states else _WITHOUT_STATES
        for state in data["decoder"].get("states", ()):
            if state["window"] is None:
                del state["window"]
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
        if isinstance(data, dict) and isinstance(data.get("task"), str):
            tasks.find(data["task"])
        if isinstance(data, dict) and version == SCHEMA_1:
            data = with_facts(data, SCHEMA_VERSION)
        elif isinstance(data, dict) and version in range(_WITHOUT_STATES, SCHEMA_VERSION):
            data = {**data, "schema_version": SCHEMA_VERSION}
        manifest = from_json_data(cls, data, where)
        check_task(manifest.does, manifest.embedding, manifest.decoder, f"{where}: embedding")
        check_states(manifest.decoder, f"{where}: decoder.states")
        if lora := manifest.lora:
            check_lora(lora.rank, lora.slots, lora.modules, manifest.decoder.layers, f"{where}: lora")
        if video := manifest.prompt.video:
            check_video(video, manifest.image.frames, manifest.prompt.image_token_id, f"{where}: prompt.video")
        for name, entry in manifest.plans.items():
            manifest.check_entry(entry, f"{where}: plans.{name}")
        check_sets(manifest.sets, manifest.plans, manifest.files, f"{where}: sets")
        return manifest

    def check_entry(self, entry: PlanEntry, where: str) -> None:
        """Check that an entry of ``plans`` is for this model, and is what it says.

        Raises:
            BundleError: It is not; or its images are beyond the limits.
        """
        if entry.plan.layers != self.decoder.layers:
            raise BundleError(
                "a plan is for a model of another depth",
                where=where,
                got=f"{entry.plan.layers} layers",
                expected=self.decoder.layers,
            )
        if entry.plan.llm.shared != self.decoder.shared:
            raise BundleError(
                "a plan is for a model whose last layers share other caches",
                where=where,
                got=f"{entry.plan.llm.shared} layers that read earlier caches",
                expected=self.decoder.shared,
            )
        precision = entry.quantised.precision if entry.quantised else self.dtype
        if entry.precision != precision:
            raise BundleError(
                "a plan's precision is not that of its graphs",
                where=f"{where}.precision",
                got=entry.precision,
                expected=precision,
            )
        if entry.cache_precision not in (None, *CACHES):
            raise BundleError(
                "a plan's caches are in codes that this version does not know",
                where=f"{where}.caches.precision",
                got=repr(entry.cache_precision)[:80],
                expected=", ".join(CACHES),
            )
        root = entry.variant_of
        if root is not None and (root not in self.plans or self.plans[root].variant_of is not None):
            raise BundleError(
                "a plan stands beside one that the bundle has not, or that is a variant itself",
                where=f"{where}.variant_of",
                got=repr(root)[:80],
                expected="a plan of this bundle that is no variant, or null",
            )
        tiles = max((cut.tiles[0] * cut.tiles[1] + 1 for cut in self.prompt.cuts), default=1)
        check_pixels(self.image.frames * max(tiles, entry.plan.sharing.images), entry.size, where)
