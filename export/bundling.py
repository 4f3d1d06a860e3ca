"""Write a bundle: trace every plan, share one weights file, add tokenizer files, hash, rename into place."""

from __future__ import annotations

import json
import platform
import re
import shutil
from collections.abc import Callable
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import onnx_ir as ir

from luvc_export import __version__, bundle
from luvc_export.errors import CheckpointError, PlanError, UsageError
from luvc_export.export import trace, weights
from luvc_export.export.checkpoint import Checkpoint
from luvc_export.export.families.base import Normalise
from luvc_export.export.forced_decoder import forced_decoder
from luvc_export.export.simplify import simplify
from luvc_export.export.surgeon import operate
from luvc_export.manifest import Fit, ImageInput, Manifest, PlanEntry, Prompt, Source, Tensor, Weights, WeightsMode
from luvc_export.plan import Plan
from luvc_export.target import ORT_CPU

#: Told (stage, fraction done of it).
Progress = Callable[[str, float], None]

#: What of a plan the vision graph depends on.
_SEEN = ("grid", "merges", "merge_mode", "positions", "windows", "size_bias")

_TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja", "chat_template.json")
#: Pillow's filters by the number ``preprocessor_config.json`` gives.
_FILTERS = ("nearest", "lanczos", "bilinear", "bicubic", "box", "hamming")


@dataclass(frozen=True)
class Options:
    """Everything about a bundle beside its plans; fields as in ``manifest``.

    Attributes:
        tiles: Grids (rows, columns) of tiles a picture may be cut to, each tile an image of ``image_size``.
        debug: Also write decoder graphs that take the kept indices as inputs (parity).
        video: Give images as many frames as the family's videos have; a picture then fills all of them.
        surgery: Operate on the traced graphs; without it they stay as the exporter's optimiser left them, to compare.
    """

    image_size: tuple[int, int]
    fit: Fit = "pad"
    text_capacity: int = 1024
    dtype: str = "fp32"
    weights: WeightsMode = "copy"
    debug: bool = False
    surgery: bool = True
    tiles: tuple[tuple[int, int], ...] = ((1, 1),)
    video: bool = False


def write_bundle(
    checkpoint: Checkpoint,
    plans: dict[str, Plan],
    output: Path,
    options: Options,
    overwrite: bool = False,
    progress: Progress = lambda stage, done: None,
) -> bundle.Bundle:
    """Trace ``plans`` (the first is the default) and write a bundle to ``output``, whole or not at all.

    Raises:
        UsageError: The output exists, or an option does not fit.
        CheckpointError: The checkpoint lacks something.
        CheckFailed: A traced graph breaks the contract.
    """
    check_size(checkpoint, plans, options)
    mode: WeightsMode = options.weights if checkpoint.tensors else "none"
    if mode != "none" and not (checkpoint.folder / "tokenizer.json").is_file():
        raise CheckpointError(
            "the checkpoint has no fast tokenizer",
            where=str(checkpoint.folder),
            expected="tokenizer.json",
            fix="AutoTokenizer.from_pretrained(MODEL).save_pretrained(MODEL) writes one",
        )
    with bundle.writing(output, overwrite) as folder:
        skeleton = weights.skeleton(checkpoint, options.dtype)
        tensors = weights.stored(skeleton.model, checkpoint)
        place = {"copy": weights.copy_plan, "none": lambda t: {}}.get(
            mode, lambda t: weights.reference_plan(checkpoint.folder, t)
        )
        places: dict[str, Tensor] = place(tensors)
        used: set[str] = set()
        entries: dict[str, PlanEntry] = {}
        for name, plan in plans.items():
            alike = [made.vision for made in entries.values() if _sees_alike(made.plan, plan)]
            entries[name] = _write_graphs(
                checkpoint, skeleton, plan, name, places, folder, options, used, progress, *alike[:1]
            )
        if mode == "copy":
            _copy_weights(folder, tensors, places, progress)
        for name in _TOKENIZER_FILES:
            if (checkpoint.folder / name).is_file():
                shutil.copyfile(checkpoint.folder / name, folder / name)
        files = {path.name: bundle.record(path) for path in sorted(folder.iterdir())}
        manifest = make_manifest(checkpoint, options, entries, mode, places, used, files)
        bundle.write_manifest(folder, manifest)
    return bundle.Bundle(output, manifest)


def check_size(checkpoint: Checkpoint, plans: dict[str, Plan], options: Options) -> None:
    """Check image sizes, tiles, video and text capacity against the family and the plans.

    Raises:
        UsageError: A side is no multiple of the unit, the family has no such tiles or no video, or the text does not
            fit the model's context.
        PlanError: A plan was made for another grid.
    """
    checkpoint.family.cuts(checkpoint.config, options.tiles)
    if options.video and checkpoint.family.video(checkpoint.config) is None:
        raise UsageError(
            f"{checkpoint.family.model_type} takes no video here",
            where="--video",
            expected="a family of docs/families.md that does",
            fix="leave --video out and ask about frames as pictures",
        )
    for name, plan in plans.items():
        if plan.joint_images > 1 and not options.video:
            raise UsageError(
                "a budget that images share is for videos",
                where=name,
                got=f"{plan.joint_images} images to a budget",
                expected="one image to a budget, or a bundle with --video",
            )
        _check_plan(checkpoint, name, plan, image_size(options, name))
    context = checkpoint.family.decoder_shape(checkpoint.config).context
    if not 1 <= options.text_capacity <= context:
        raise UsageError(
            "the text capacity does not fit the model",
            where="--text-capacity",
            got=options.text_capacity,
            expected=f"1 to {context} (the model's context)",
        )


def image_size(options: Options, name: str) -> tuple[int, int]:
    """Height and width of the images of the plan ``name``: ``NAME@HxW`` says its own."""
    own = re.fullmatch(r".+@(\d+)x(\d+)", name)
    return (int(own[1]), int(own[2])) if own else options.image_size


def _check_plan(checkpoint: Checkpoint, name: str, plan: Plan, size: tuple[int, int]) -> None:
    unit, fixed = checkpoint.family.unit_pixels(checkpoint.config), checkpoint.family.image_size(checkpoint.config)
    height, width = size
    if fixed and fixed != size:
        raise UsageError(
            "this model takes one image size only",
            where="--image-size",
            got=f"{height}x{width}",
            expected=f"{fixed[0]}x{fixed[1]}, which its position embeddings are learned for",
            fix=f"--image-size {fixed[0]}x{fixed[1]}",
        )
    if not fixed and (height % unit or width % unit or min(height, width) < unit):
        nearest = tuple(max(unit, round(side / unit) * unit) for side in (height, width))
        raise UsageError(
            "the image size does not fit the model",
            where="--image-size",
            got=f"{height}x{width}",
            expected=f"multiples of {unit}",
            fix=f"--image-size {nearest[0]}x{nearest[1]}",
        )
    if plan.grid != (height // unit, width // unit):
        raise PlanError(
            "the plan is for another image size",
            where=name,
            got=f"grid {plan.grid}",
            expected=f"{(height // unit, width // unit)} for {height}x{width}",
        )


def _sees_alike(one: Plan, other: Plan) -> bool:
    """Whether one vision graph serves both plans: the LLM's budgets and scores are not in it."""
    return all(getattr(one, name) == getattr(other, name) for name in _SEEN)


def _write_graphs(
    checkpoint: Checkpoint,
    skeleton: weights.Skeleton,
    plan: Plan,
    name: str,
    places: dict[str, Tensor],
    folder: Path,
    options: Options,
    used: set[str],
    progress: Progress,
    seen: str | None = None,
) -> PlanEntry:
    """Trace and save the graphs of a plan; ``seen`` is a vision graph of the bundle that serves it too."""
    family, config = checkpoint.family, checkpoint.config
    shape = replace(family.decoder_shape(config), hidden=family.visual_width(config))
    video = family.video(config) if options.video else None
    size, frames = image_size(options, name), video.frames if video else 1
    vision = family.vision(skeleton.model, plan, _normalise(checkpoint))
    decoder = family.decoder(skeleton.model, plan)
    flat, dtype = trace.FlatDecoder(decoder), weights.DTYPES[options.dtype]
    layers = trace.selections(decoder) if options.debug else []
    files = [f"vision.{name}.onnx", f"decoder.{name}.onnx", *([f"decoder.{name}.debug.onnx"] if layers else [])]
    steps: list[tuple[str, Any, Callable[[], ir.Model]]] = [
        (files[0], vision, lambda: trace.trace_vision(vision, size, frames)),
        (files[1], flat, lambda: trace.trace_decoder(decoder, shape, dtype)),
    ]
    for file, module, traced in steps[1:] if seen else steps:
        progress(f"tracing {file}", 0.0)
        model = traced()
        inputs = weights.detach(model, module, skeleton.names)
        progress(f"tracing {file}", 0.6)
        simplify(model)
        weights.attach(model, inputs, places)
        used |= weights.used(model)
        model.producer_name, model.producer_version = "luvc-export", __version__
        model.metadata_props["luvc.plan"] = json.dumps(plan.to_json())
        trace.check(model)
        if layers and module is flat:
            (folder / files[2]).write_bytes(ir.to_proto(forced_decoder(model, layers)).SerializeToString())
        proto = ir.to_proto(model)
        if options.surgery:
            proto, _ = operate(proto, ORT_CPU, options.dtype)  # type: ignore[arg-type]
        (folder / file).write_bytes(proto.SerializeToString())
        progress(f"tracing {file}", 1.0)
    own = size if size != options.image_size else None
    return PlanEntry(plan, seen or files[0], files[1], files[2] if len(files) > 2 else None, size=own)


def _copy_weights(folder: Path, tensors: Any, places: dict[str, Tensor], progress: Progress) -> None:
    total, done = sum(place.bytes for place in places.values()), 0

    def tell(count: int) -> None:
        nonlocal done
        done += count
        progress("copying weights", done / max(total, 1))

    weights.write_copy(folder, tensors, places, tell)


def _processor(checkpoint: Checkpoint) -> dict[str, Any]:
    path = checkpoint.folder / "preprocessor_config.json"
    data: dict[str, Any] = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    return data


def _normalise(checkpoint: Checkpoint) -> Normalise:
    given, pixels = _processor(checkpoint), checkpoint.family.pixels
    return Normalise(
        given.get("rescale_factor", pixels.rescale),
        list(given.get("image_mean", pixels.mean)),
        list(given.get("image_std", pixels.std)),
    )


def make_manifest(
    checkpoint: Checkpoint,
    options: Options,
    entries: dict[str, PlanEntry],
    mode: WeightsMode,
    places: dict[str, Tensor],
    used: set[str],
    files: dict[str, Any],
) -> Manifest:
    """``luvc.json`` of an export: what the checkpoint, its family and the options say.

    Args:
        checkpoint: Source.
        options: As given.
        entries: Plans by name, the default one first.
        mode: Of the weights.
        places: Where every tensor of the checkpoint lies.
        used: Names of the tensors that graphs use.
        files: Records of the bundle's files.
    """
    given, pixels = _processor(checkpoint), checkpoint.family.pixels
    shape = checkpoint.family.decoder_shape(checkpoint.config)
    video = checkpoint.family.video(checkpoint.config) if options.video else None
    mean = given.get("image_mean", pixels.mean)
    number = given.get("resample")
    resample = _FILTERS[number] if isinstance(number, int) and number in range(len(_FILTERS)) else pixels.resample
    copies = 4 if any(entry.plan.positions == "multi" for entry in entries.values()) else 1
    return Manifest(
        source=Source(checkpoint.name, checkpoint.family.model_type, checkpoint.sha256, checkpoint.revision),
        dtype=options.dtype,  # type: ignore[arg-type]
        image=ImageInput(
            options.image_size,
            options.fit,
            (round(255 * mean[0]), round(255 * mean[1]), round(255 * mean[2])),
            resample,
            video.frames if video else 1,
        ),
        prompt=Prompt(
            image_token_id=checkpoint.family.image_token_id(checkpoint.config),
            eos_token_ids=_eos(checkpoint),
            text_capacity=options.text_capacity,
            position_kind=checkpoint.family.position_kind,
            position_copies=copies,
            marker=checkpoint.family.template_marker(checkpoint.config),
            cuts=checkpoint.family.cuts(checkpoint.config, options.tiles),
            video=video,
            tiling=checkpoint.family.tiling,
        ),
        decoder=shape,
        planes=checkpoint.family.visual_width(checkpoint.config) // shape.hidden - 1,
        default_plan=next(iter(entries)),
        plans=entries,
        weights=Weights(
            mode,
            str(checkpoint.folder.resolve()) if mode == "reference" else None,
            {name: places[name] for name in sorted(used)} if mode == "reference" else {},
        ),
        files=files,
        tools={"luvc-export": __version__, "python": platform.python_version()}
        | {name: version(name) for name in ("torch", "transformers", "onnx", "onnxscript")},
    )


def _eos(checkpoint: Checkpoint) -> tuple[int, ...]:
    path = checkpoint.folder / "generation_config.json"
    given = json.loads(path.read_text(encoding="utf-8")).get("eos_token_id") if path.is_file() else None
    if given is None:
        given = getattr(checkpoint.config, "eos_token_id", None)
    if given is None:
        given = getattr(checkpoint.config.get_text_config(), "eos_token_id", None)
    values = given if isinstance(given, list) else [given]
    return tuple(int(value) for value in values if value is not None)
