"""A bundle that was just exported, in another precision too: every plan, on a user's pictures or on drawn ones."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection
from dataclasses import replace
from os import PathLike
from typing import TYPE_CHECKING

from luvc_export.bundle.folder import Bundle
from luvc_export.core.named_plans import QUANTISED
from luvc_export.core.precision import find
from luvc_export.errors import Progress, UsageError
from luvc_export.pipeline.export_options import ExportOptions

if TYPE_CHECKING:
    from luvc_export.calibration.datasets import CalibrationSet
    from luvc_export.calibration.quantise.calibrate import Calibrated
    from luvc_export.calibration.quantise.forecast import Forecast
    from luvc_export.export.checkpoint import Checkpoint

#: Pictures taken, half of which are held out.
COUNT = 128
#: Tokens that an answer to a question of nobody's may have: a picture's first words, before two good answers part.
LONGEST = 8
#: Share of such answers that must stay what they are: one word in another place makes two texts differ.
AGREEMENT = 0.95


def check_precision(precision: str, asked: ExportOptions, where: str) -> None:
    """Check before a long export that its plans can be quantised afterwards; ``where`` asks for it.

    Raises:
        UsageError: They cannot.
    """
    from luvc_export.calibration.quantise.plans import check_dtype

    find(precision)
    check_dtype(asked.dtype, where, precision)
    if asked.weights == "none":
        raise UsageError("graphs without weights have nothing to quantise", where=where)
    if asked.video or asked.joint_frames is not None or asked.joint_tiles is not None:
        raise UsageError(
            "pictures say nothing of plans for films, or for tiles that share a budget",
            where=where,
            got="--video, --joint-frames or --joint-tiles",
            fix="export first, then luvc-export calibrate BUNDLE --plan PLAN@video --data a set of films",
        )


def check_answers(checkpoint: Checkpoint, task: str | None) -> None:
    """Check before a long export that its bundle will give answers, to which quantised plans are held.

    Raises:
        UsageError: It gives vectors.
    """
    from luvc_export.export.reading.sentence_transformers import task_of

    if (made_for := task_of(checkpoint, task)) != "generate":
        raise UsageError(
            "plans are quantised by the answers that stay, and this model gives none",
            where="--precision, --plan",
            got=f"--task {made_for}",
            fix="leave the precision out",
        )


def pictures(data: str | PathLike[str] | None, progress: Progress) -> CalibrationSet:
    """The set that is calibrated on: ``data``, or drawn pictures; pictures without a text are to be described.

    Raises what ``calibration.datasets.load`` raises.
    """
    from luvc_export.calibration import datasets, drawn

    asked = datasets.load(
        drawn.NAME if data is None else str(data), count=COUNT, prompt=drawn.PROMPTS[0], progress=progress
    )
    return asked if asked.known else replace(asked, longest=LONGEST)


def quantise_plans(
    bundle: Bundle,
    precision: str | None,
    data: CalibrationSet,
    *,
    named: Collection[str] = (),
    min_agreement: float = AGREEMENT,
    threads: int | None = None,
    foretell: Callable[[Forecast], None] = lambda forecast: None,
    progress: Progress = lambda stage, done: None,
) -> list[Calibrated]:
    """Add each plan of a bundle in ``precision``, and ``named`` ones; see ``calibration.quantise.calibrate``.

    Arguments are those of ``calibrate``; ``foretell`` is told what each plan takes. ``named`` are of
    ``core.named_plans.QUANTISED``, each made of the bundle's plan of its recipe.

    Raises:
        LuvcError: See ``calibrate``; the bundle stands with the plans it had, and those that were quantised before.
    """
    from luvc_export.calibration.quantise.calibrate import calibrate
    from luvc_export.calibration.quantise.quantiser import load
    from luvc_export.calibration.quantise.recipe import Recipe
    from luvc_export.calibration.quantise.sites import sites

    wanted = [(name, Recipe(find(precision))) for name in bundle.manifest.plans] if precision else []
    for row in named:
        recipe = Recipe(find(QUANTISED[row].precision), named=row)
        roots = {name: entry.variant_of or name for name, entry in bundle.manifest.plans.items()}
        wanted += [(name, recipe) for name, root in roots.items() if root == QUANTISED[row].recipe]
    results: list[Calibrated] = []
    for name, recipe in wanted:
        llm = sites(load(bundle, bundle.entry(name).decoder).graph) if recipe.named else {}
        results.append(
            calibrate(
                bundle,
                data,
                recipe,
                plan=name,
                min_agreement=min_agreement,
                keep_high=[f"^{re.escape(site)}$" for site in llm],
                threads=threads,
                foretell=foretell,
                progress=progress,
            )
        )
        bundle = results[-1].bundle
    return results
