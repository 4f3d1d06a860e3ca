"""A checkpoint to a bundle."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from luvc_export.bundle import folder as bundles
from luvc_export.bundle.manifest import Fit, WeightsMode
from luvc_export.core.files.folders import check_name
from luvc_export.core.files.text import read_text
from luvc_export.core.named_plans import DEFAULT_PLAN
from luvc_export.core.plan import Plan
from luvc_export.core.planning import check_model
from luvc_export.core.progress import Progress
from luvc_export.errors import UsageError
from luvc_export.pipeline.plans import as_sizes, check_scorer, default_image_size, make_plans, open_model

if TYPE_CHECKING:
    from luvc_export.export.checkpoint import Checkpoint


def export_bundle(
    model: str | Checkpoint,
    output: str | os.PathLike[str],
    plans: str | Plan | Mapping[str, Plan] = DEFAULT_PLAN,
    *,
    image_size: tuple[int, int] | Sequence[tuple[int, int]] | None = None,
    fit: Fit = "pad",
    tiles: Sequence[tuple[int, int]] = ((1, 1),),
    video: bool = False,
    joint_frames: int | None = None,
    joint_tiles: tuple[int, int] | None = None,
    text_capacity: int = 1024,
    dtype: str = "fp32",
    weights: WeightsMode = "copy",
    debug: bool = False,
    padding: bool = True,
    unit_tolerance: int = 0,
    round_activations: bool = False,
    strict: bool = False,
    vocab: str | os.PathLike[str] | int | None = None,
    vocab_data: str | os.PathLike[str] | None = None,
    overwrite: bool = False,
    revision: str | None = None,
    lora: str | None = None,
    lora_slots: int | None = None,
    lora_targets: Sequence[str] | None = None,
    progress: Progress | None = None,
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
        fit: How pictures of another shape are brought to it.
        tiles: Grids (rows, columns) of tiles a picture may be cut to, where the family does that.
        video: Take videos too, where the family does.
        joint_frames: Where ``plans`` is a schedule's name: beside it, a plan ``NAME@video`` whose budgets are for a
            whole video of so many frames, which it keeps the best tokens of. Implies ``video``.
        joint_tiles: The same for a picture in so many rows and columns of tiles, ``NAME@tiles``. Implies those tiles.
        text_capacity: Text tokens, prompt and answer, the bundle is sized for.
        dtype: Arithmetic of the graphs: fp32, fp16 or bf16.
        weights: ``copy`` into the bundle, ``reference`` where the checkpoint has them, or ``none``.
        debug: Also write decoder graphs that take the kept indices as inputs.
        padding: Tell graphs which units are padding, where ``fit`` pads; False for engines with plugins.
        unit_tolerance: Levels of a pixel up to which buckets (plans ``NAME@50``) take a unit for foretold.
        round_activations: Products of a quantised checkpoint's codes round what enters them to 8 bits by block.
        strict: Refuse a quantised checkpoint whose weights back-ends would widen or round again.
        vocab: Let answers be written with some of the tokens alone: a file that lists them or is a text made of them,
            or how many. Prompts are read with all of them as before.
        vocab_data: With a number: cases (JSON lines), whose most frequent tokens are kept, those of answers first.
        overwrite: Replace an existing bundle.
        revision: Hub revision.
        lora: Folder of a peft adapter to merge into the weights first.
        lora_slots: Largest rank of adapters that the bundle takes when it answers (docs/adapters.md); None for none.
        lora_targets: Products of the LLM's layers that they may change; None for every one.
        progress: Told (stage, fraction of it done).

    Raises:
        LuvcError: See ``make_plan`` and ``luvc_export.export.bundling.write_bundle``.
    """
    check_name(Path(output), "the output folder")
    if lora is not None:
        check_name(Path(lora), "the adapter")
    if lora is not None and weights != "copy":
        raise UsageError(
            "merged weights lie nowhere but in the bundle",
            where="--lora",
            got=f"--weights {weights}",
            expected="--weights copy",
        )
    joint = joint_tiles if joint_frames is None else joint_frames
    if joint is not None and not isinstance(plans, str):
        raise UsageError(
            "plans say themselves how many images share their budgets",
            where="joint_frames" if joint_frames is not None else "joint_tiles",
            got=joint,
            fix="make_plans(..., joint_frames=N) makes them, NAME@video beside NAME; joint_tiles makes NAME@tiles",
        )
    checkpoint = open_model(model, revision, weights=weights != "none")
    sizes = as_sizes(image_size) or [default_image_size(checkpoint)]
    if isinstance(plans, str):
        plans = make_plans(checkpoint, [plans], image_size=sizes, joint_frames=joint_frames, joint_tiles=joint_tiles)
    elif isinstance(plans, Plan):
        plans = {plans.schedule.replace(" ", "-"): plans}
    if not plans:
        raise UsageError("there is nothing to export", where="plans", expected="at least one plan")
    units = max(plan.sharing.images * plan.units for plan in plans.values())
    checkpoint = replace(checkpoint, config=checkpoint.family.bounded(checkpoint.config, text_capacity, units))
    shapes = checkpoint.family.decoder_shape(checkpoint.config), checkpoint.family.encoder_shape(checkpoint.config)
    for plan in plans.values():
        check_model(plan, *shapes)
        check_scorer(plan, shapes[0].hidden)
    from luvc_export.export.bundling import write_bundle
    from luvc_export.export.options import Options

    video = video or joint_frames is not None
    shared = dict.fromkeys(plan.sharing.cut for plan in plans.values() if plan.sharing.kind == "tiles")
    tiles = (*tiles, *(grid for grid in shared if grid not in tiles))
    more = {"tiles": tiles, "video": video, "padding": padding, "unit_tolerance": unit_tolerance}
    more["round_activations"], more["strict"] = round_activations, strict
    more["vocabulary"] = _vocabulary(checkpoint, vocab, vocab_data)
    more["lora_slots"] = _slots(lora_slots, lora_targets)
    options = Options(sizes[0], fit, text_capacity, dtype, weights, debug, **more)  # type: ignore[arg-type]
    tell = progress or (lambda stage, done: None)
    _check_tiles(plans, tiles, shapes[0].context)
    if lora is None:
        return write_bundle(checkpoint, plans, Path(output), options, overwrite, tell)
    from luvc_export.export.lora import merged

    bundles.check_target(Path(output), overwrite)
    with merged(checkpoint, lora) as whole:
        return write_bundle(whole, plans, Path(output), options, overwrite, tell)


def _vocabulary(checkpoint: Checkpoint, vocab: object, data: str | os.PathLike[str] | None) -> object:
    """The tokens to keep, or None.

    Raises:
        UsageError: A number without data or data without a number; see ``export.llm.reduced_head`` and ``parse_case``.
    """
    if vocab is None and data is None:
        return None
    if (data is None) == isinstance(vocab, int):
        raise UsageError(
            "a number of tokens is chosen by data, and a file by itself",
            where="--vocab",
            got=f"--vocab {vocab}" + (f" --data {data}" if data else ""),
            expected="--vocab FILE, or --vocab N --data CASES.jsonl",
        )
    from luvc_export.export.llm.reduced_head import tokens_of_file, tokens_of_texts
    from luvc_export.runtime.prompt.case_lines import parse_case

    if not isinstance(vocab, int):
        return tokens_of_file(checkpoint, Path(str(vocab)))
    path = Path(str(data))
    check_name(path, "the cases")
    if not path.is_file():
        raise UsageError("there are no such cases", where="--data", got=str(path), expected="a file of JSON lines")
    lines = enumerate(read_text(path, UsageError, "the file of cases").splitlines(), 1)
    cases = [parse_case(line, f"{path}:{number}", path.parent) for number, line in lines if line.strip()]
    answers = [case.answer for case in cases if case.answer]
    return tokens_of_texts(checkpoint, vocab, answers, [case.prompt for case in cases], path.name)


def _slots(rank: int | None, targets: Sequence[str] | None) -> object:
    """What slots there shall be, or None.

    Raises:
        UsageError: Targets without a rank, or a rank that is none.
    """
    from luvc_export.export.llm.lora_slots import SlotRequest

    if rank is None and targets is None:
        return None
    if rank is None or rank < 1:
        raise UsageError(
            "slots have a rank",
            where="--lora-slots",
            got=rank,
            expected="the largest rank of the adapters to come, such as 16",
        )
    return SlotRequest(rank, tuple(dict.fromkeys(targets)) if targets else None)


def _check_tiles(plans: Mapping[str, Plan], tiles: Sequence[tuple[int, int]], context: int) -> None:
    """Check that a picture of so many tiles, and a word about it, has places in the model's context.

    Raises:
        UsageError: It has none. Places are counted without compression, as positions are.
    """
    for rows, columns in tiles:
        for name, plan in plans.items():
            if rows * columns * plan.units >= context:
                raise UsageError(
                    "a picture of so many tiles does not fit the model's context",
                    where=f"--tiles {rows}x{columns}",
                    got=f"{rows * columns} tiles of {plan.units} tokens each in plan {name}",
                    expected=f"fewer than {context} tokens",
                    fix="ask for fewer tiles",
                )
