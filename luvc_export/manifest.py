"""``luvc.json``: what a bundle holds, frozen, JSON both ways, checked field by field when read."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass, field
from typing import Any, Literal

from luvc_export.cut import Cut, Tiling, Video
from luvc_export.errors import BundleError
from luvc_export.file_record import FileRecord
from luvc_export.manifest_engines import EngineEntry, Verified
from luvc_export.plain import from_plain
from luvc_export.plan import Plan
from luvc_export.shapes import DecoderShape

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

    ``pad_colour`` is what the model's normalisation maps nearest to zero; ``resample`` a Pillow filter name.
    """

    size: tuple[int, int]
    fit: Fit
    pad_colour: tuple[int, int, int]
    resample: str = "bicubic"
    frames: int = 1


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
    cuts: tuple[Cut, ...] = ()
    video: Video | None = None
    tiling: Tiling = "best_resolution"


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
        precision: A name of ``luvc_export.precision``.
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
class Tensor:
    """One weight: where its bytes lie. ``file`` is relative to the bundle, or to the checkpoint folder (reference)."""

    file: str
    offset: int
    bytes: int
    dtype: str
    shape: tuple[int, ...]


@dataclass(frozen=True)
class Weights:
    """Weights of every graph: ``copy`` in the bundle, ``reference`` in ``folder``, or ``none`` (timing only)."""

    mode: WeightsMode
    folder: str | None = None
    tensors: dict[str, Tensor] = field(default_factory=dict)


@dataclass(frozen=True)
class Manifest:
    """The whole of ``luvc.json``. ``engines`` holds at most one entry for a plan and a target.

    ``planes`` of DeepStack follow each visual embedding.
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
    schema_version: int = SCHEMA_VERSION

    @property
    def visual_width(self) -> int:
        """Last axis of ``visual_embeds``."""
        return self.decoder.hidden * (1 + self.planes)

    def to_json(self) -> dict[str, Any]:
        """Return plain data that ``from_json`` turns back into an equal manifest."""
        data: dict[str, Any] = json.loads(json.dumps(dataclasses.asdict(self)))
        return data

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
        return from_plain(cls, data, where)
