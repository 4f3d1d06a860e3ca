"""``luvc.json`` of an export: what the checkpoint, its ``generation_config.json``, its family and the options say."""

from __future__ import annotations

import json
import platform
from importlib.metadata import version
from pathlib import Path
from typing import Any

from transformers import GenerationConfig

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
from luvc_export.core.files.json_file import read_json
from luvc_export.core.files.json_records import from_json_data
from luvc_export.core.generation_defaults import GenerationDefaults
from luvc_export.errors import BundleError, CheckpointError
from luvc_export.export.checkpoint import Checkpoint
from luvc_export.export.llm.reduced_head import vocabulary
from luvc_export.export.options import Options
from luvc_export.export.processor import PictureSettings, picture_settings
from luvc_export.version import VERSION

GENERATION_FILE = "generation_config.json"
#: What ``generate`` draws from where a file says ``do_sample`` and no more (transformers, GenerationConfig).
_DRAWN: dict[str, Any] = {"temperature": 1.0, "top_k": 50}
#: Fields that change answers and have no counterpart here, with the values that ask for nothing.
_UNSUPPORTED: dict[str, list[Any]] = json.loads(
    Path(__file__).with_name("unsupported_generation.json").read_text(encoding="utf-8")
)
_LISTS = ("suppress_tokens", "begin_suppress_tokens", "forced_eos_token_id")


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


def end_tokens(checkpoint: Checkpoint) -> tuple[int, ...]:
    """The tokens that end an answer.

    Raises:
        CheckpointError: They are none.
    """
    stated = _read(checkpoint).get("eos_token_id")
    if stated is None:
        stated = getattr(checkpoint.config, "eos_token_id", None)
    if stated is None:
        stated = getattr(checkpoint.config.get_text_config(), "eos_token_id", None)
    values = stated if isinstance(stated, list) else [stated]
    if any(value is not None and (type(value) is not int or not 0 <= value < 2**31) for value in values):
        where = str(checkpoint.folder / GENERATION_FILE)
        raise CheckpointError("the tokens that end an answer are no token ids", where=where, got=repr(stated)[:80])
    return tuple(int(value) for value in values if value is not None)


def generation_defaults(checkpoint: Checkpoint) -> GenerationDefaults:
    """What ``model.generate`` does when nothing else is asked.

    ``max_length`` counts the prompt and is not followed: a bundle's room stands in for it. ``forced_bos_token_id`` acts
    on prompts of one token, which no chat template writes.

    Raises:
        CheckpointError: A value is of the wrong kind, or beyond its limits.
    """
    stated = {name: value for name, value in _read(checkpoint).items() if value is not None}
    fields: dict[str, Any] = {}
    if stated.get("do_sample") is True:
        fields |= _DRAWN
        fields |= {name: stated[name] for name in ("temperature", "top_k", "top_p", "min_p") if name in stated}
    kept = ("repetition_penalty", "no_repeat_ngram_size", "bad_words_ids", "min_new_tokens", "max_new_tokens", *_LISTS)
    fields |= {name: stated[name] for name in kept if name in stated}
    for name in _LISTS:
        if isinstance(fields.get(name), int):
            fields[name] = [fields[name]]
    fields["unsupported"] = sorted(
        name for name, nothing in _UNSUPPORTED.items() if name in stated and stated[name] not in nothing
    )
    where = str(checkpoint.folder / GENERATION_FILE)
    try:
        defaults = from_json_data(GenerationDefaults, fields, where)
    except BundleError as error:
        raise CheckpointError(
            "the generation config has a wrong value", where=error.where, got=error.got, expected=error.expected
        ) from error
    if not all(defaults.bad_words_ids):
        raise CheckpointError("a bad word has no tokens", where=where, got="bad_words_ids with an empty list")
    return defaults


def _read(checkpoint: Checkpoint) -> dict[str, Any]:
    """The file's fields; without one, what older checkpoints say in ``config.json``, as transformers reads it."""
    path = checkpoint.folder / GENERATION_FILE
    if not path.exists():
        return dict(GenerationConfig.from_model_config(checkpoint.config).to_diff_dict())
    fields = read_json(path, 2**20, CheckpointError, "the generation config")
    return fields if isinstance(fields, dict) else {}
