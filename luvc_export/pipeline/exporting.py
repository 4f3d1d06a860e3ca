"""A checkpoint to a bundle."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from luvc_export.bundle import folder as bundles
from luvc_export.core.files.folders import check_name
from luvc_export.core.named_plans import DEFAULT_PLAN
from luvc_export.core.options import settled, values_of
from luvc_export.core.plan import Plan
from luvc_export.core.planning import check_model
from luvc_export.errors import Progress, UsageError
from luvc_export.pipeline.export_options import ExportOptions, asked_slots, chosen_tokens
from luvc_export.pipeline.plans import as_sizes, check_scorer, default_image_size, make_plans, open_model

if TYPE_CHECKING:
    from luvc_export.export.checkpoint import Checkpoint


def export_bundle(
    model: str | Checkpoint,
    output: str | os.PathLike[str],
    plans: str | Plan | Mapping[str, Plan] = DEFAULT_PLAN,
    *,
    image_size: tuple[int, int] | Sequence[tuple[int, int]] | None = None,
    options: ExportOptions | None = None,
    progress: Progress | None = None,
    **settings: Any,
) -> bundles.Bundle:
    """Export a checkpoint to a bundle of ONNX graphs with the plans' compression inside.

    Args:
        model: Folder or hub id, or an opened checkpoint.
        output: Folder to write; appears whole or not at all.
        plans: A schedule's name, a plan, or several plans by name, the first being the default. Which of them stand
            beside another one a ``PlanSet`` says, as ``make_plans`` returns it; in any other mapping their names say
            it: ``NAME@HxW`` is ``NAME`` for images of another size. The runtime takes the one that fits a picture best.
        image_size: Height and width of the image input in pixels; None for the family's own size. Several where
            ``plans`` is a schedule's name.
        options: What else is set; None for what is usual.
        progress: Told (stage, fraction of it done).
        **settings: Fields of ``ExportOptions`` by name, which go before those of ``options``.

    Raises:
        LuvcError: See ``make_plan`` and ``luvc_export.export.bundling.write_bundle``.
    """
    asked = settled(ExportOptions, options, settings, "export_bundle")
    check_name(Path(output), "the output folder")
    _check(asked, plans)
    joint = {"joint_frames": asked.joint_frames, "joint_tiles": asked.joint_tiles}
    checkpoint = open_model(model, asked.revision, weights=asked.weights != "none")
    sizes = as_sizes(image_size) or [default_image_size(checkpoint)]
    if isinstance(plans, str):
        plans = make_plans(checkpoint, [plans], image_size=sizes, task=asked.task, **joint)  # type: ignore[arg-type]
    elif isinstance(plans, Plan):
        plans = {plans.schedule.replace(" ", "-"): plans}
    if not plans:
        raise UsageError("there is nothing to export", where="plans", expected="at least one plan")
    units = max(plan.sharing.images * plan.units for plan in plans.values())
    bounded = checkpoint.family.bounded(checkpoint.config, asked.text_capacity, units)
    checkpoint = replace(checkpoint, config=bounded)
    shapes = checkpoint.family.decoder_shape(checkpoint.config), checkpoint.family.encoder_shape(checkpoint.config)
    for plan in plans.values():
        check_model(plan, *shapes)
        check_scorer(plan, shapes[0].hidden)
    from luvc_export.export.bundling import write_bundle
    from luvc_export.export.options import Options
    from luvc_export.export.reading.sentence_transformers import task_of

    shared = dict.fromkeys(plan.sharing.cut for plan in plans.values() if plan.sharing.kind == "tiles")
    tiles = (*asked.tiles, *(grid for grid in shared if grid not in asked.tiles))
    same = {name: value for name, value in values_of(asked).items() if name in Options.__dataclass_fields__}
    same |= {"tiles": tiles, "video": asked.video or asked.joint_frames is not None}
    same["vocabulary"] = chosen_tokens(checkpoint, asked.vocab, asked.vocab_data)
    same["task"] = task_of(checkpoint, asked.task)
    same["lora_slots"] = asked_slots(asked.lora_slots, asked.lora_targets)
    written = Options(sizes[0], **same)
    tell = progress or (lambda stage, done: None)
    _check_tiles(plans, tiles, shapes[0].context)
    if asked.lora is None:
        return write_bundle(checkpoint, plans, Path(output), written, asked.overwrite, tell)
    from luvc_export.export.lora import merged

    bundles.check_target(Path(output), asked.overwrite)
    with merged(checkpoint, str(asked.lora)) as whole:
        return write_bundle(whole, plans, Path(output), written, asked.overwrite, tell)


def _check(asked: ExportOptions, plans: str | Plan | Mapping[str, Plan]) -> None:
    """Refuse merged weights that would lie nowhere, and plans that say themselves what shares their budgets."""
    if asked.lora is not None:
        check_name(Path(asked.lora), "the adapter")
    if asked.lora is not None and asked.weights != "copy":
        raise UsageError(
            "merged weights lie nowhere but in the bundle",
            where="--lora",
            got=f"--weights {asked.weights}",
            expected="--weights copy",
        )
    joint = {"joint_frames": asked.joint_frames, "joint_tiles": asked.joint_tiles}
    stated = [name for name, value in joint.items() if value is not None]
    if stated and not isinstance(plans, str):
        raise UsageError(
            "plans say themselves how many images share their budgets",
            where=stated[0],
            got=joint[stated[0]],
            fix="make_plans(..., joint_frames=N) makes them, NAME@video beside NAME; joint_tiles makes NAME@tiles",
        )


def _check_tiles(plans: Mapping[str, Plan], tiles: Sequence[tuple[int, int]], context: int) -> None:
    """Check that a picture, whole and of so many tiles, and a word about it have places in the model's context.

    Raises:
        UsageError: It has none. Places are counted without compression, as positions are.
    """
    expected = f"fewer than {context} tokens: the model's context, or the window beyond which no layer of it looks"
    for name, plan in plans.items():
        if plan.units >= context:
            raise UsageError(
                "a picture does not fit the model's context",
                where="--image-size",
                got=f"{plan.units} tokens in plan {name}",
                expected=expected,
                fix="ask for a smaller --image-size, where the model has one",
            )
        for rows, columns in tiles:
            if rows * columns * plan.units >= context:
                raise UsageError(
                    "a picture of so many tiles does not fit the model's context",
                    where=f"--tiles {rows}x{columns}",
                    got=f"{rows * columns} tiles of {plan.units} tokens each in plan {name}",
                    expected=expected,
                    fix="ask for fewer tiles",
                )
