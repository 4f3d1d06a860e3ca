"""``luvc.json`` of an export: what the checkpoint, its family and the options say."""

from __future__ import annotations

import platform
from importlib.metadata import version
from typing import Any

from luvc_export.bundle.manifest import (
    ImageInput,
    Manifest,
    PlanEntry,
    Prompt,
    Source,
    StoredCodes,
    Weights,
    WeightsMode,
    WeightTensor,
)
from luvc_export.export.checkpoint import Checkpoint
from luvc_export.export.generation_config import end_tokens, generation_defaults
from luvc_export.export.llm.reduced_head import vocabulary
from luvc_export.export.options import Options
from luvc_export.export.processor import PictureSettings, picture_settings
from luvc_export.version import VERSION


def make_manifest(
    checkpoint: Checkpoint,
    options: Options,
    entries: dict[str, PlanEntry],
    mode: WeightsMode,
    places: dict[str, WeightTensor],
    used: set[str],
    files: dict[str, Any],
    codes: StoredCodes | None = None,
) -> Manifest:
    """The manifest to write.

    Args:
        checkpoint: Source.
        options: As given.
        entries: Plans by name, the default one first.
        mode: Of the weights.
        places: Where every tensor of the checkpoint lies.
        used: Names of the tensors that graphs use.
        files: Records of the bundle's files.
        codes: What of the weights the checkpoint stores quantised.
    """
    settings = picture_settings(checkpoint)
    shape = checkpoint.family.decoder_shape(checkpoint.config)
    video = checkpoint.family.video(checkpoint.config) if options.video else None
    cuts = checkpoint.family.cuts(checkpoint.config, options.tiles)
    cut_at_all = any(cut.tiles != (1, 1) for cut in cuts)
    tiling = checkpoint.family.tiling if cut_at_all else Prompt.tiling  # which every version knows
    copies = 4 if any(entry.plan.encoder.positions == "multi" for entry in entries.values()) else 1
    return Manifest(
        source=Source(checkpoint.name, checkpoint.family.model_type, checkpoint.sha256, checkpoint.revision),
        dtype=options.dtype,  # type: ignore[arg-type]
        image=ImageInput(
            options.image_size,
            options.fit,
            pad_colour(settings),
            settings.resample,
            video.frames if video else 1,
            checkpoint.family.unit_pixels(checkpoint.config),
            options.unit_tolerance,
        ),
        prompt=Prompt(
            image_token_id=checkpoint.family.image_token_id(checkpoint.config),
            eos_token_ids=end_tokens(checkpoint),
            text_capacity=options.text_capacity,
            position_kind=checkpoint.family.position_kind,
            position_copies=copies,
            marker=checkpoint.family.template_marker(checkpoint.config),
            cuts=cuts,
            video=video,
            tiling=tiling,
            prefix=checkpoint.family.prefix(checkpoint.config),
        ),
        generation=generation_defaults(checkpoint),
        vocabulary=vocabulary(checkpoint, options.vocabulary) if options.vocabulary else None,
        decoder=shape,
        planes=checkpoint.family.visual_width(checkpoint.config) // shape.hidden - 1,
        default_plan=next(iter(entries)),
        plans=entries,
        weights=Weights(
            mode,
            str(checkpoint.folder.resolve()) if mode == "reference" else None,
            {name: places[name] for name in sorted(used)} if mode == "reference" else {},
            codes,
        ),
        files=files,
        tools={"luvc-export": VERSION, "python": platform.python_version()}
        | {name: version(name) for name in ("torch", "transformers", "onnx", "onnxscript")},
    )


def pad_colour(settings: PictureSettings) -> tuple[int, int, int]:
    """The mean colour, which normalises to about 0."""
    red, green, blue = (min(max(round(mean / settings.rescale), 0), 255) for mean in settings.mean)
    return red, green, blue
