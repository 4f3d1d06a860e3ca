"""Add a plan whose caches are stored in codes: behind ``luvc-export calibrate --kv``."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from luvc_export.bundle.folder import Bundle
from luvc_export.bundle.manifest import CacheQuantisation, PlanEntry
from luvc_export.calibration.datasets import CalibrationSet
from luvc_export.calibration.quantise import agreement
from luvc_export.calibration.quantise.cache_codes import magnitudes, scales_of, store_codes, turned_channels
from luvc_export.calibration.quantise.plans import CalibratedCaches, check_bundle, check_target, write_plan
from luvc_export.calibration.quantise.ranges import Relay, watch
from luvc_export.calibration.runners import open_bundle
from luvc_export.calibration.runners.probes import read_model, write_copy
from luvc_export.core.files.folders import writing_to
from luvc_export.core.files.safe_files import temporary_folder, write_whole
from luvc_export.core.plan.names import quantised_name
from luvc_export.core.precision import CACHES, PRECISIONS, check_caches
from luvc_export.errors import CheckFailed, Progress, UsageError
from luvc_export.runtime.model import Array, Backend, Cache


def calibrate_caches(
    bundle: Bundle,
    data: CalibrationSet,
    precision: str,
    *,
    plan: str | None = None,
    min_agreement: float = 0.99,
    output: Path | None = None,
    overwrite: bool = False,
    threads: int | None = None,
    progress: Progress = lambda stage, done: None,
) -> CalibratedCaches:
    """Add a plan with quantised caches to a bundle. Scales come from one half of ``data``, agreement from the other.

    Arguments are those of ``calibrate``; ``precision`` is a name of ``core.precision.CACHES``, and ``plan`` may be
    quantised.

    Raises:
        UsageError: A choice that means nothing or does not fit the bundle.
        CheckFailed: Fewer answers stay the same; nothing is written.
    """
    plan = plan or bundle.manifest.default_plan
    name = check(bundle, plan, precision, min_agreement, overwrite, output)
    fitted, held = data.split()
    largest = key_ranges(bundle, plan, fitted, threads, progress)
    entry, scales = bundle.entry(plan), {layer: scales_of(one) for layer, one in largest.items()}
    names = {"decoder": entry.decoder, "decoder_debug": entry.decoder_debug}
    files: dict[str, Any] = {
        part: f"{file.split('.')[0]}.{name}{'.debug' * (part == 'decoder_debug')}.onnx"
        for part, file in names.items()
        if file is not None
    }
    graphs = {files[part]: rewritten(bundle, str(names[part]), scales) for part in files}
    caches = CacheQuantisation(precision, data.record)
    added = dataclasses.replace(entry, **files, variant_of=entry.variant_of or plan, caches=caches)
    with temporary_folder("luvc-caches") as scratch, writing_to(scratch):
        for file, graph in graphs.items():
            write_whole(scratch / file, graph)
        others = [file for file in bundle.manifest.files if file.endswith(".onnx") and file != entry.vision]
        alone = {name: dataclasses.replace(added, variant_of=None)}
        write_copy(bundle, scratch, [*graphs], others, plans=alone, default_plan=name, engines=())
        reference = open_bundle(str(bundle.folder), plan, threads)
        comparison = agreement.answers(reference, open_bundle(str(scratch), name, threads), held)
        progress("agreement", 1.0)
    if (share := agreement.share(comparison)) < min_agreement:
        raise CheckFailed(
            "with caches in codes too many answers change; nothing was written",
            where=f"plan {plan}",
            got=f"{share:.4f} of {len(comparison.answered)} held-out answers stay the same",
            expected=f"at least {min_agreement:g}",
            fix="give more cases of the kind that will be asked, or a lower --retention",
        )

    def write(folder: Path) -> tuple[PlanEntry, Collection[str]]:
        for file, graph in graphs.items():
            write_whole(folder / file, graph)
        return added, graphs

    manifest, old = bundle.manifest, bundle.manifest.plans.get(name)
    gone = manifest.files.keys() - manifest.without_sets([name]).files.keys()
    gone |= {old.decoder, old.decoder_debug or old.decoder} if old else set()
    written = write_plan(bundle, name, manifest.plans, gone, write, output, overwrite)
    return CalibratedCaches(written, name, comparison)


def check(bundle: Bundle, plan: str, precision: str, min_agreement: float, overwrite: bool, output: Path | None) -> str:
    """Check what was asked for before any long work; the new plan's name.

    Raises:
        UsageError: It cannot be done.
    """
    check_caches(precision)
    bundle.check_task("generate")
    check_bundle(bundle, min_agreement, "answer with")
    entry, where = bundle.entry(plan), str(bundle.folder)
    if entry.caches is not None:
        raise UsageError("the caches of this plan are in codes already", where=where, got=plan)
    if entry.quantised is not None and PRECISIONS[entry.quantised.precision].tensorrt_only:
        raise UsageError(
            "this plan runs on TensorRT alone, which stores no caches in codes", where=where, got=plan,
            expected="a plan that ONNX Runtime runs",
        )  # fmt: skip
    root = entry.variant_of or plan
    suffix = PRECISIONS[entry.quantised.precision].suffix if entry.quantised else ""
    name = quantised_name(plan, root + suffix if plan.startswith(root + suffix) else root, CACHES[precision])
    check_target(bundle, name, "the bundle has this plan with such caches", output, overwrite)
    return name


def key_ranges(
    bundle: Bundle,
    plan: str,
    data: CalibrationSet,
    threads: int | None = None,
    progress: Progress = lambda stage, done: None,
) -> dict[int, NDArray[np.float32]]:
    """Largest ``magnitudes`` of keys over prompts and answers: [Hkv, Dh] by layer.

    Raises:
        CheckFailed: A layer turns its keys in pairs that are not known.
    """
    graph, states = read_model(bundle, bundle.entry(plan).decoder).graph, bundle.manifest.states_of(bundle.entry(plan))
    turned = {state.layer: turned_channels(graph, state.past) for state in states if state.name == "key"}
    largest: dict[int, NDArray[np.float32]] = {}
    stage = "collecting ranges of keys"
    watch(bundle.folder, plan, lambda free: _Watching(free, turned, largest), data, stage, threads, progress)
    return largest


class _Watching(Relay):
    """A back-end that looks at the keys of every call; ``turned``: channels of a head that rotation turns, by layer."""

    def __init__(self, inner: Backend, turned: Mapping[int, int], largest: dict[int, NDArray[np.float32]]) -> None:
        super().__init__(inner)
        self._turned, self._largest = turned, largest

    def decode(self, feeds: Mapping[str, Array], cache: Cache | None) -> tuple[dict[str, Array], Any]:
        out, after = self._inner.decode(feeds, cache)
        known = (0,) * len(after.lengths) if cache is None else cache.lengths
        for state, values in zip(self._inner.states, after.floats(), strict=True):
            if state.name == "key":
                sizes = magnitudes(values[:, :, known[state.layer] :], self._turned[state.layer])
                self._largest[state.layer] = np.maximum(self._largest.get(state.layer, sizes), sizes)
        return out, after


def rewritten(bundle: Bundle, file: str, scales: Mapping[int, NDArray[np.float32]]) -> bytes:
    """A decoder of a bundle whose caches are codes, weights where they were."""
    model = read_model(bundle, file)
    store_codes(model.graph, bundle.manifest.decoder, scales)
    return bytes(ir.to_proto(model).SerializeToString())
