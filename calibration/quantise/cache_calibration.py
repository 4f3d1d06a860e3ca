"""Add a plan whose caches are stored in codes: behind ``luvc-export calibrate --kv``."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
from numpy.typing import NDArray

from luvc_export.bundle import folder as bundles
from luvc_export.bundle import graph_trust
from luvc_export.bundle.folder import Bundle
from luvc_export.bundle.graphs import read_graph
from luvc_export.bundle.hashing import link
from luvc_export.bundle.manifest import CacheQuantisation, Manifest, PlanEntry
from luvc_export.bundle.replacing import check_own, take_along
from luvc_export.calibration.datasets import CalibrationSet
from luvc_export.calibration.parity.compare import Comparison
from luvc_export.calibration.quantise import agreement
from luvc_export.calibration.quantise.cache_codes import magnitudes, scales_of, store_codes, turned_channels
from luvc_export.calibration.runners import open_bundle
from luvc_export.calibration.runners.bundle import BundleCalls, Relay
from luvc_export.core.files.folders import writing_to
from luvc_export.core.files.safe_files import temporary_folder, write_whole
from luvc_export.core.plan.names import quantised_name
from luvc_export.core.precision import CACHES, PRECISIONS, check_caches
from luvc_export.core.progress import Progress
from luvc_export.errors import CheckFailed, UsageError
from luvc_export.export.surgeon.finish import finish
from luvc_export.runtime.model import Array, Backend, Cache


@dataclass(frozen=True)
class CalibratedCaches:
    """What became of a plan.

    Attributes:
        bundle: The bundle with the new plan in it.
        plan: Name of the new plan.
        made: Answers of the plan and the new one on the held-out part.
    """

    bundle: Bundle
    plan: str
    made: Comparison


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

    Args:
        bundle: A checked bundle with weights, in fp32 or fp16.
        data: Cases.
        precision: A name of ``core.precision.CACHES``.
        plan: One of the bundle's plans, quantised or not; None for its default.
        min_agreement: Share of answers on the held-out half that must stay the same.
        output: Folder of another bundle to write; None adds to this one.
        overwrite: Replace a plan of that name, or the bundle at ``output``.
        threads: CPU threads.
        progress: Told (stage, fraction done).

    Raises:
        UsageError: A choice that means nothing or does not fit the bundle.
        CheckFailed: Fewer answers stay the same; nothing is written.
    """
    plan = plan or bundle.manifest.default_plan
    name = check(bundle, plan, precision, min_agreement, overwrite, output)
    fitted, held = data.split()
    largest = key_ranges(bundle, plan, fitted, threads, progress)
    entry, scales = bundle.entry(plan), {layer: scales_of(one) for layer, one in largest.items()}
    graphs = {
        file: rewritten(bundle, file, scales) for file in (entry.decoder, entry.decoder_debug) if file is not None
    }
    files = {file: f"{file.split('.')[0]}.{name}{'.debug' * (file == entry.decoder_debug)}.onnx" for file in graphs}
    added = dataclasses.replace(
        entry,
        decoder=files[entry.decoder],
        decoder_debug=None if entry.decoder_debug is None else files[entry.decoder_debug],
        variant_of=entry.variant_of or plan,
        caches=CacheQuantisation(precision, data.record),
    )
    new = {files[file]: graph for file, graph in graphs.items()}
    with temporary_folder("luvc-caches") as scratch, writing_to(scratch):
        alone = _write(bundle, scratch, name, added, new, trial=True)
        reference = open_bundle(str(bundle.folder), plan, threads)
        comparison = agreement.answers(reference, open_bundle(str(alone.folder), name, threads), held)
        progress("agreement", 1.0)
    if (share := agreement.share(comparison)) < min_agreement:
        raise CheckFailed(
            "with caches in codes too many answers change; nothing was written",
            where=f"plan {plan}",
            got=f"{share:.4f} of {len(comparison.answered)} held-out answers stay the same",
            expected=f"at least {min_agreement:g}",
            fix="give more cases of the kind that will be asked, or a lower --retention",
        )
    target = output or bundle.folder
    with writing_to(target), bundles.writing(target, overwrite or output is None) as folder:
        _write(bundle, folder, name, added, new, trial=False, moved=output is not None)
    written = Bundle(target, bundles.read_manifest(target))
    graph_trust.inherit(bundle, written)
    return CalibratedCaches(written, name, comparison)


def check(bundle: Bundle, plan: str, precision: str, min_agreement: float, overwrite: bool, output: Path | None) -> str:
    """Check what was asked for before any long work; the new plan's name.

    Raises:
        UsageError: It cannot be done.
    """
    check_caches(precision)
    entry, manifest, where = bundle.entry(plan), bundle.manifest, str(bundle.folder)
    if not 0 <= min_agreement <= 1:
        raise UsageError("no such share", where="--retention", got=min_agreement, expected="0 to 1")
    if entry.caches is not None:
        raise UsageError("the caches of this plan are in codes already", where=where, got=plan)
    if manifest.weights.mode == "none":
        raise UsageError("this bundle has no weights to answer with", where=where, fix="export it without --no-weights")
    if manifest.dtype == "bf16":
        raise UsageError(
            "ONNX Runtime computes nothing in bf16 on a CPU, so no ranges of keys can be collected",
            where=where,
            fix="export with --dtype fp32 or fp16",
        )
    if entry.quantised is not None and PRECISIONS[entry.quantised.precision].tensorrt_only:
        raise UsageError(
            "this plan runs on TensorRT alone, which stores no caches in codes", where=where, got=plan,
            expected="a plan that ONNX Runtime runs",
        )  # fmt: skip
    check_own(bundle.folder, manifest)
    root = entry.variant_of or plan
    suffix = PRECISIONS[entry.quantised.precision].suffix if entry.quantised else ""
    name = quantised_name(plan, root + suffix if plan.startswith(root + suffix) else root, CACHES[precision])
    if output is not None:
        bundles.check_target(output, overwrite)
    elif name in manifest.plans and not overwrite:
        raise UsageError(
            "the bundle has this plan with such caches", where=where, got=name,
            fix="pass --overwrite, or -o another folder",
        )  # fmt: skip
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
    entry = bundle.entry(plan)
    graph, states = _decoder(bundle, entry.decoder).graph, bundle.manifest.states_of(entry)
    turned = {state.layer: turned_channels(graph, state.past) for state in states if state.name == "key"}
    runner = open_bundle(str(bundle.folder), plan, threads)
    assert isinstance(runner.calls, BundleCalls)
    watching = runner.calls.free = _Watching(runner.calls.free, turned)
    for number, case in enumerate(data.cases):
        runner.answer([case], data.longest)
        progress("collecting ranges of keys", (number + 1) / len(data.cases))
    return watching.largest


class _Watching(Relay):
    """A back-end that looks at the keys of every call; ``turned``: channels of a head that rotation turns, by layer."""

    def __init__(self, inner: Backend, turned: Mapping[int, int]) -> None:
        super().__init__(inner)
        self.largest: dict[int, NDArray[np.float32]] = {}
        self._turned = turned

    def decode(self, feeds: Mapping[str, Array], cache: Cache | None) -> tuple[dict[str, Array], Any]:
        out, after = self._inner.decode(feeds, cache)
        known = (0,) * len(after.lengths) if cache is None else cache.lengths
        for state, values in zip(self._inner.states, after.floats(), strict=True):
            if state.name == "key":
                sizes = magnitudes(values[:, :, known[state.layer] :], self._turned[state.layer])
                self.largest[state.layer] = np.maximum(self.largest.get(state.layer, sizes), sizes)
        return out, after


def rewritten(bundle: Bundle, file: str, scales: Mapping[int, NDArray[np.float32]]) -> bytes:
    """A decoder of a bundle whose caches are codes, weights where they were."""
    model = _decoder(bundle, file)
    store_codes(model.graph, bundle.manifest.decoder, scales)
    return bytes(ir.to_proto(model).SerializeToString())


def _decoder(bundle: Bundle, file: str) -> ir.Model:
    return ir.from_proto(onnx.load_model_from_string(read_graph(bundle, file).data))


def _write(
    bundle: Bundle,
    folder: Path,
    name: str,
    entry: PlanEntry,
    graphs: Mapping[str, bytes],
    trial: bool,
    moved: bool = True,
) -> Bundle:
    """Write a bundle with one more plan, or for a ``trial`` that plan alone; ``moved``: its folder is another one."""
    manifest = dataclasses.replace(bundle.manifest, sets=()) if trial else bundle.manifest.without_sets([name])
    if trial:
        files = {file: known for file, known in manifest.files.items() if not _is_other_graph(file, entry)}
        for file in files:
            link(bundle.folder / file, folder / file)
    else:
        old = manifest.plans.get(name)
        replaced = {old.decoder, *filter(None, [old.decoder_debug])} if old else set()
        files = {file: known for file, known in manifest.files.items() if file not in replaced}
        gone = bundle.manifest.files.keys() - files.keys()
        take_along(bundle.folder, bundle.manifest, folder, but=frozenset({*gone, bundles.MANIFEST}), link=True)
    for file, data in graphs.items():
        write_whole(folder / file, data)
        files[file] = bundles.record(folder / file)
    plans = {name: dataclasses.replace(entry, variant_of=None)} if trial else {**manifest.plans, name: entry}
    weights = bundle.anchored_weights if moved else manifest.weights
    engines = () if trial else tuple(item for item in manifest.engines if item.plan != name)
    default = name if trial else manifest.default_plan
    added: Manifest = dataclasses.replace(
        manifest, plans=plans, default_plan=default, weights=weights, files=files, engines=engines
    )
    if not trial:
        added = finish(Bundle(folder, added), [name])
    bundles.write_manifest(folder, added)
    result = Bundle(folder, added)
    graph_trust.inherit(bundle, result)
    return result


def _is_other_graph(file: str, entry: PlanEntry) -> bool:
    return file.endswith(".onnx") and file != entry.vision
