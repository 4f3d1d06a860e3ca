"""Quantise a plan of a bundle, measure it through parity, keep high what must be: behind ``luvc-export calibrate``."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

from luvc_export.bundle.folder import Bundle
from luvc_export.bundle.manifest import PlanEntry
from luvc_export.calibration.datasets import CalibrationSet
from luvc_export.calibration.quantise import agreement, bisect, ranges
from luvc_export.calibration.quantise.forecast import Forecast, foretelling
from luvc_export.calibration.quantise.modelopt.backend import ModelOpt
from luvc_export.calibration.quantise.plans import (
    CalibratedCaches,
    check_bundle,
    check_dtype,
    check_target,
    replaced,
    write_plan,
)
from luvc_export.calibration.quantise.quantiser import Quantiser, Seen, load
from luvc_export.calibration.quantise.recipe import Recipe
from luvc_export.calibration.quantise.sites import sites
from luvc_export.core.files.folders import writing_to
from luvc_export.core.files.safe_files import temporary_folder
from luvc_export.errors import CheckFailed, Progress, UsageError, did_you_mean


@dataclass(frozen=True)
class Calibrated(CalibratedCaches):
    """What became of a plan that is quantised.

    Attributes:
        found: What stays high because answers would differ, and the trials.
        bytes: What the graphs of the new plan read, weights and graphs.
        dropped: Plans that read the files of the one that was replaced, and are gone with it.
    """

    found: bisect.Found
    bytes: int
    dropped: tuple[str, ...] = ()


def calibrate(
    bundle: Bundle,
    data: CalibrationSet,
    recipe: Recipe,
    *,
    plan: str | None = None,
    min_agreement: float = 0.99,
    keep_high: Sequence[str] = (),
    quantise_too: Sequence[str] = (),
    output: Path | None = None,
    ranges_file: Path | None = None,
    overwrite: bool = False,
    threads: int | None = None,
    modelopt: ModelOpt | None = None,
    foretell: Callable[[Forecast], None] = lambda forecast: None,
    progress: Progress = lambda stage, done: None,
) -> Calibrated:
    """Add a quantised plan to a bundle. Ranges come from one half of ``data``, agreement from the other.

    Of a bundle that embeds cases are pairs of a query and a page, and agreement is the share of NDCG@5 that is kept.

    Args:
        bundle: A checked bundle with weights. Where it is in bf16, answers are compared and ranges taken in fp32.
        data: Cases.
        recipe: How to quantise.
        plan: One of the bundle's plans; None for its default.
        min_agreement: Share of answers on the held-out half that must stay the same.
        keep_high: Regular expressions of sites that stay high in any case.
        quantise_too: Of those that are high by default (``sites.HIGH``) and shall not be, such as the head.
        output: Folder of another bundle to write; None adds to this one.
        ranges_file: Where ranges are kept between runs.
        overwrite: Replace a plan of that name, or the bundle at ``output``. Plans that read the replaced plan's files,
            as those with its caches in codes do, are dropped: their scales are of the weights before.
        threads: CPU threads.
        modelopt: Who decides scales; None for this package.
        foretell: Told how long it takes, once two cases are answered; nvidia-modelopt's is not foretold.
        progress: Told (stage, fraction done).

    Raises:
        UsageError: A choice that means nothing or does not fit the bundle; it finds the pages no better than chance.
        MachineError: nvidia-modelopt is missing or failed.
        CheckFailed: Answers agree only where no product is quantised, or what nvidia-modelopt decided does not fit the
            bundle's graphs.
    """
    plan = plan or bundle.manifest.default_plan
    check(bundle, plan, recipe, min_agreement, overwrite, output)
    held = agreement.HeldOut(bundle, plan, data, threads)
    entry = bundle.entry(plan)
    models = {"vision": load(bundle, entry.vision), "decoder": load(bundle, entry.decoder)}
    by_name = {name: site for model in models.values() for name, site in sites(model.graph).items()}
    keep = _matching("--keep-high", keep_high, by_name)
    too = _matching("--quantise-too", quantise_too, [name for name, site in by_name.items() if site.high])
    seen: Seen
    if modelopt is None:
        graphs = [model.graph for model in models.values()]
        heard = foretelling(foretell, progress, recipe, graphs, keep, (held.fitted, held.asked))
        seen = ranges.collected(bundle, plan, held.fitted, ranges_file, threads, heard)
    else:
        if too:
            fix = "leave it out, or let this package decide (--backend luvc)"
            raise UsageError("nvidia-modelopt leaves these high", where="--quantise-too", got=sorted(too), fix=fix)
        if ranges_file is not None:
            raise UsageError("nvidia-modelopt keeps no ranges between runs", where="--cache", got=str(ranges_file))
        recipe = dataclasses.replace(recipe, backend=f"nvidia-modelopt {modelopt.check(bundle, recipe)}")
        seen = modelopt.scales(models, recipe, bundle, plan, held.fitted, keep, threads, progress)
    with temporary_folder("luvc-quantise") as scratch, writing_to(scratch):
        quantiser = Quantiser(bundle, plan, recipe, seen, scratch, keep, progress, too)
        trials = agreement.Trials(held, quantiser, progress)
        search = trials.fewest(min_agreement)
        if len(search.high) == len(quantiser.names):
            tried = max((trial.agreement for trial in search.trials if len(trial.high) < len(search.high)), default=0.0)
            raise CheckFailed(
                "no product can be quantised so that so many answers stay the same",
                where=f"--retention {min_agreement:g}",
                got=f"{tried:.4f} of {len(held.asked.cases)} answers at best, so no plan was added",
                fix="a lower --retention, another --precision, or more pictures: few make a share coarse",
            )
        comparison = next(comparison for high, comparison in trials.measured.items() if set(high) == set(search.high))

        def write(folder: Path) -> tuple[PlanEntry, Collection[str]]:
            entry = quantiser.write(folder, search.high, data.record)
            assert entry.quantised is not None
            return entry, (entry.vision, entry.decoder, entry.quantised.weights)

        written = write_plan(
            bundle, quantiser.name, *replaced(bundle.manifest, quantiser.name), write, output, overwrite
        )
    entry = written.manifest.plans[quantiser.name]
    assert entry.quantised is not None
    size = sum(written.manifest.files[name].bytes for name in (entry.vision, entry.decoder, entry.quantised.weights))
    dropped = tuple(name for name in bundle.manifest.plans if name not in written.manifest.plans)
    return Calibrated(written, quantiser.name, comparison, search, size, dropped)


def check(
    bundle: Bundle, plan: str, recipe: Recipe, min_agreement: float, overwrite: bool, output: Path | None
) -> None:
    """Check what was asked for before any long work.

    Raises:
        UsageError: It cannot be done.
    """
    check_bundle(bundle, min_agreement, "quantise")
    if bundle.manifest.does.pairs:
        fix = "quantise the model that embeds the candidates"
        raise UsageError("a reranker ranks no set of pages", where=str(bundle.folder), got="the task rerank", fix=fix)
    entry, manifest, where = bundle.entry(plan), bundle.manifest, str(bundle.folder)
    if entry.quantised is not None:
        raise UsageError(
            "this plan is quantised already", where=where, got=plan, expected="a plan in the bundle's own precision"
        )
    if entry.caches is not None:
        raise UsageError(
            "the caches of this plan are in codes already",
            where=where,
            got=plan,
            fix="quantise the plan it was made of, then that one's caches: --kv",
        )
    check_dtype(manifest.dtype, where, recipe.precision.name)
    quantised = recipe.precision.plan_name(plan, entry.variant_of, recipe.named)
    check_target(bundle, quantised, "the bundle has this plan in this precision", output, overwrite)


def _matching(where: str, patterns: Sequence[str], names: Collection[str]) -> set[str]:
    matching: set[str] = set()
    for pattern in patterns:
        try:
            hits = {name for name in names if re.search(pattern, name)}
        except re.error as error:
            raise UsageError("this is no regular expression", where=where, got=pattern) from error
        if not hits:
            raise UsageError("no product matches", where=where, got=pattern, expected=did_you_mean(pattern, names))
        matching |= hits
    return matching
