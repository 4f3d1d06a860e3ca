"""A plan that is added to a bundle: checked before the work, written whole behind it."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from pathlib import Path

from luvc_export.bundle import folder as bundles
from luvc_export.bundle import graph_trust
from luvc_export.bundle.folder import Bundle
from luvc_export.bundle.manifest import Manifest, PlanEntry
from luvc_export.bundle.replacing import check_own, take_along
from luvc_export.calibration.parity.compare import Comparison
from luvc_export.calibration.quantise.agreement import Ranked
from luvc_export.core.files.folders import writing_to
from luvc_export.errors import UsageError
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
    made: Comparison | Ranked


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
