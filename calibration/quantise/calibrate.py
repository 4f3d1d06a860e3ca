"""Quantise a plan of a bundle, measure it through parity, keep high what must be: behind ``luvc-export calibrate``."""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from luvc_export.bundle import folder as bundles
from luvc_export.bundle import graph_trust
from luvc_export.bundle.folder import Bundle
from luvc_export.bundle.manifest import Manifest, PlanEntry
from luvc_export.bundle.replacing import check_own, take_along
from luvc_export.calibration.datasets import CalibrationSet
from luvc_export.calibration.pairs import Pairs
from luvc_export.calibration.parity.compare import Comparison
from luvc_export.calibration.quantise import agreement, bisect, ranges
from luvc_export.calibration.quantise.forecast import Forecast, foretelling
from luvc_export.calibration.quantise.modelopt.backend import ModelOpt
from luvc_export.calibration.quantise.quantiser import Quantiser, load
from luvc_export.calibration.quantise.recipe import Recipe, Scales
from luvc_export.calibration.quantise.sites import sites
from luvc_export.calibration.quantise.statistics import Statistics
from luvc_export.calibration.runners import open_bundle
from luvc_export.calibration.runners.base import Runner
from luvc_export.core.files.folders import writing_to
from luvc_export.core.files.safe_files import temporary_folder
from luvc_export.errors import CheckFailed, Progress, UsageError, did_you_mean
from luvc_export.export.surgeon.finish import finish


@dataclass(frozen=True)
class CalibratedCaches:
    """What became of a plan whose caches are stored in codes.

    Attributes:
        bundle: The bundle with the new plan in it.
        plan: Name of the new plan.
        made: Answers of the plan and the new one on the held-out part, or what they find of pairs.
    """

    bundle: Bundle
    plan: str
    made: Comparison | agreement.Ranked


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
    fitted, held = data.split()
    pairs, samples, early = None, list(fitted.cases), None
    if not bundle.manifest.does.decodes:
        pairs, samples = Pairs(held.cases, held.name), [*Pairs(fitted.cases, fitted.name).samples]
        early = agreement.Remembered(open_bundle(str(bundle.folder), plan, threads))
        agreement.ranked(early, early, pairs)  # which refuses those at chance
    entry = bundle.entry(plan)
    models = {"vision": load(bundle, entry.vision), "decoder": load(bundle, entry.decoder)}
    by_name = {name: site for model in models.values() for name, site in sites(model.graph).items()}
    keep = _matching("--keep-high", keep_high, by_name)
    too = _matching("--quantise-too", quantise_too, [name for name, site in by_name.items() if site.high])
    seen: Mapping[str, Statistics | Scales | str]
    if modelopt is None:
        graphs = [model.graph for model in models.values()]
        heard = foretelling(foretell, progress, recipe, graphs, keep, (fitted, held))
        seen = _ranges(bundle, plan, fitted, ranges_file, threads, heard)
    else:
        if too:
            fix = "leave it out, or let this package decide (--backend luvc)"
            raise UsageError("nvidia-modelopt leaves these high", where="--quantise-too", got=sorted(too), fix=fix)
        if ranges_file is not None:
            raise UsageError("nvidia-modelopt keeps no ranges between runs", where="--cache", got=str(ranges_file))
        recipe = dataclasses.replace(recipe, backend=f"nvidia-modelopt {modelopt.check(bundle, recipe)}")
        seen = modelopt.scales(models, recipe, bundle, plan, fitted, keep, threads, progress)
    with temporary_folder("luvc-quantise") as scratch, writing_to(scratch):
        quantiser = Quantiser(bundle, plan, recipe, seen, scratch, keep, progress, too)
        record = data.record
        reference = early or agreement.Remembered(open_bundle(str(bundle.folder), plan, threads))
        measured: dict[tuple[str, ...], Comparison | agreement.Ranked] = {}

        def trial(high: tuple[str, ...]) -> Runner:
            return open_bundle(str(quantiser.trial(high, record).folder), quantiser.name, threads)

        def agrees(high: tuple[str, ...]) -> float:
            runner, ask = trial(high), agreement.answers
            measured[high] = (
                ask(reference, runner, held) if pairs is None else agreement.ranked(reference, runner, pairs)
            )
            progress(f"agreement with {len(high)} kept high", 1.0)
            return agreement.share(measured[high])

        def alone(names: tuple[str, ...]) -> float:
            others = tuple(other for other in quantiser.names if other not in names)
            return agreement.moved(reference, trial(others), samples[: agreement.OBSERVED])

        def damage() -> dict[str, float]:
            ranks = {}
            for number, name in enumerate(quantiser.names):
                ranks[name] = alone((name,))
                progress("ranking what quantising each moves", (number + 1) / len(quantiser.names))
            return ranks

        def moved(wide: tuple[str, ...]) -> float:
            quantiser.wide = wide
            return agreement.moved(reference, trial(()), samples[: bisect.OBSERVED])

        if recipe.precision.mixed and recipe.divergence < math.inf:
            wide = bisect.fewest_wide(quantiser.sizes, alone, moved, recipe.divergence, progress)
            quantiser.wide = frozenset(wide)
        search = bisect.fewest(damage, agrees, min_agreement, progress)
        if len(search.high) == len(quantiser.names):
            tried = max((trial.agreement for trial in search.trials if len(trial.high) < len(search.high)), default=0.0)
            raise CheckFailed(
                "no product can be quantised so that so many answers stay the same",
                where=f"--retention {min_agreement:g}",
                got=f"{tried:.4f} of {len(held.cases)} answers at best, so no plan was added",
                fix="a lower --retention, another --precision, or more pictures: few make a share coarse",
            )
        comparison = next(comparison for high, comparison in measured.items() if set(high) == set(search.high))

        def write(folder: Path) -> tuple[PlanEntry, Collection[str]]:
            entry = quantiser.write(folder, search.high, record)
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


def _ranges(
    bundle: Bundle, plan: str, data: CalibrationSet, file: Path | None, threads: int | None, progress: Progress
) -> dict[str, Statistics]:
    wanted = ranges.description(bundle, plan, data)
    if file is not None and file.exists():
        return ranges.load_ranges(file, wanted)
    seen = ranges.collect(bundle, plan, data, threads, progress)
    if file is not None:
        ranges.save_ranges(file, wanted, seen)
    return seen


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


def replaced(manifest: Manifest, name: str) -> tuple[dict[str, PlanEntry], set[str]]:
    """Return the plans that stay when the quantised plan ``name`` is made anew, and the files that do not.

    A plan that reads a file of the old one goes too: its own numbers are of weights that are no more.
    """
    old, files = manifest.plans.get(name), {other: manifest.files_of(other) for other in manifest.plans}
    own = {old.quantised.weights} if old and old.quantised else set()  # other files may serve several plans
    stay = {other: entry for other, entry in manifest.plans.items() if other != name and not own & files[other]}
    kept = {file for other in stay for file in files[other]}
    return stay, {file for other in manifest.plans if other not in stay for file in files[other]} - kept


def check_bundle(bundle: Bundle, min_agreement: float, weights_for: str) -> None:
    """Check that plans of ``bundle`` can be measured and written; ``weights_for`` says to what end.

    Raises:
        UsageError: They cannot.
    """
    manifest, where = bundle.manifest, str(bundle.folder)
    if not 0 <= min_agreement <= 1:
        raise UsageError("no such share", where="--retention", got=min_agreement, expected="0 to 1")
    if manifest.weights.mode == "none":
        fix = "export it without --no-weights"
        raise UsageError(f"this bundle has no weights to {weights_for}", where=where, fix=fix)
    check_own(bundle.folder, manifest)


def check_dtype(dtype: str, where: str, precision: str) -> None:
    """Check that a bundle of ``dtype`` takes weights in ``precision``.

    Raises:
        UsageError: It does not.
    """
    if precision in ("q4", "q4f16") and (precision == "q4f16") != (dtype == "fp16"):
        other = "q4" if precision == "q4f16" else "q4f16"
        raise UsageError(
            f"{precision} needs a bundle of dtype {'fp16' if precision == 'q4f16' else 'fp32 or bf16'}",
            where=where,
            got=dtype,
            fix=f"--precision {other}, or export with another --dtype",
        )


def check_target(bundle: Bundle, name: str, taken: str, output: Path | None, overwrite: bool) -> None:
    """Check that plan ``name`` may be written; ``taken`` is what is wrong where it is there already.

    Raises:
        UsageError: It may not.
    """
    if output is not None:
        bundles.check_target(output, overwrite)
    elif name in bundle.manifest.plans and not overwrite:
        fix = "pass --overwrite, or -o another folder"
        raise UsageError(taken, where=str(bundle.folder), got=name, fix=fix)


def write_plan(
    bundle: Bundle,
    name: str,
    stay: Mapping[str, PlanEntry],
    gone: Collection[str],
    write: Callable[[Path], tuple[PlanEntry, Collection[str]]],
    output: Path | None,
    overwrite: bool,
) -> Bundle:
    """Write the bundle with the new plan; whole or not at all, also where it replaces itself.

    Args:
        bundle: A checked bundle.
        name: Of the plan.
        stay: Other plans that the bundle keeps; an older one called ``name`` may be among them and keeps its place.
        gone: Files that it does not keep.
        write: Writes the files of the plan into a folder: its entry, and their names.
        output: Folder of another bundle to write; None writes in the place of ``bundle``.
        overwrite: Replace the bundle at ``output``.
    """
    target, manifest = output or bundle.folder, bundle.manifest
    with writing_to(target), bundles.writing(target, overwrite or output is None) as folder:
        take_along(bundle.folder, manifest, folder, but=frozenset({*gone, bundles.MANIFEST}), link=True)
        entry, written = write(folder)
        files = {file: known for file, known in manifest.files.items() if file not in gone}
        plans, others = {**stay, name: entry}, stay.keys() - {name}
        changed = dataclasses.replace(
            manifest,
            plans=plans,
            default_plan=manifest.default_plan if manifest.default_plan in plans else name,
            weights=bundle.anchored_weights if output else manifest.weights,
            files=files | {file: bundles.record(folder / file) for file in written},
            engines=tuple(item for item in manifest.engines if item.plan in others),
            sets=tuple(one for one in manifest.sets if one.plan in others),
        )
        changed = finish(Bundle(folder, changed), [name])
        bundles.write_manifest(folder, changed)
    graph_trust.inherit(bundle, Bundle(target, changed))
    return Bundle(target, changed)
