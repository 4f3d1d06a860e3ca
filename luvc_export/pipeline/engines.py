"""A bundle's plan to engines, prepared for any target, built where its library is; its graphs, finished for a CPU."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from luvc_export.bundle import codes, graph_trust
from luvc_export.bundle import folder as bundles
from luvc_export.bundle.engines import checks as engine_checks
from luvc_export.bundle.graphs import read_graph
from luvc_export.bundle.manifest import Footprint, LoraSlots, PlanEntry, StoredCodes
from luvc_export.bundle.replacing import check_own, take_along
from luvc_export.core import precision as precisions
from luvc_export.core.element_types import BY_PRECISION
from luvc_export.core.files.folders import writing_to
from luvc_export.core.options import settled
from luvc_export.core.target import Target, TargetSpec
from luvc_export.engines.options import BuildOptions, EngineOptions
from luvc_export.errors import BundleError, MachineError, Progress, UsageError

if TYPE_CHECKING:
    from luvc_export.engines.builder import BuildInput
    from luvc_export.engines.install import PreparedBuild
    from luvc_export.engines.memory import KvCacheSpec

#: Different adapters of one call, unless it is asked for: their factors take memory, most of a batch's are the same.
MOST_ADAPTERS = 4


def prepare_build(
    bundle: bundles.Bundle,
    target: str,
    plan: str | None = None,
    *,
    engine: EngineOptions | None = None,
    options: BuildOptions | None = None,
    progress: Progress | None = None,
    **settings: Any,
) -> PreparedBuild:
    """Bring a plan's graphs into a target's dialect and predict what its engines will need; nothing is built.

    Arguments are those of ``build_engine``; ``bundle`` is a checked one.

    Raises:
        UsageError: An unknown target or plan, or an option that does not fit, such as another precision than a 16-bit
            bundle's own.
        PlanError: The plan does not fit on the device; names the largest batch that does, if one does.
        BundleError: The bundle has no weights.
        MachineError: The packages that surgery needs are missing.
        CheckFailed: The target does not take the graphs.
    """
    from luvc_export.engines import targets
    from luvc_export.engines.install import PreparedBuild
    from luvc_export.engines.memory import KvCacheSpec, check_fits
    from luvc_export.engines.profiles import Capacity

    tell = progress or (lambda stage, done: None)
    record, options = targets.find(target), options or BuildOptions()
    asked = settled(EngineOptions, engine, settings, "prepare_build")
    precision, kv, batch = asked.precision, asked.kv, asked.batch
    options.check(record.library)
    manifest, entry = bundle.manifest, bundle.entry(plan)
    if entry.quantised is not None:
        precisions.check_target(precisions.find(entry.quantised.precision), record)
    if entry.caches is not None:
        kv = precisions.form_of_codes(record, kv)
    if manifest.weights.stored is not None:
        check_codes(manifest.weights.stored, record)
    if precision is None:
        precision = manifest.dtype if manifest.dtype != "fp32" else record.spec.precisions[0]
    if manifest.dtype not in ("fp32", precision):
        raise UsageError(
            "graphs in 16 bits are built in the precision that they are in",
            where=str(bundle.folder),
            got=f"--precision {precision}, a bundle of --dtype {manifest.dtype}",
            expected=f"--precision {manifest.dtype}",
            fix="leave --precision out, or export with --dtype fp32, of which engines of any precision are built",
        )
    adapters = adapters_of_a_call(manifest.lora, batch, asked.adapters, str(bundle.folder))
    rank = manifest.lora.rank if manifest.lora else 0
    text = asked.text_capacity or manifest.prompt.text_capacity
    logits = asked.logits
    if not manifest.does.decodes:  # no cache, and of many vectors one of each token
        kv, logits = "concat", text if manifest.does.pooling == "every" else 1
    capacity = Capacity(text, asked.images, batch, logits, adapters, rank)
    spec = options.spec(record.with_kv(kv or record.spec.kv))
    cache = KvCacheSpec(entry.plan, manifest.decoder, capacity, precision, spec.kv, entry.caches is not None)
    tell(f"graphs for {target}", 0.0)
    graphs, of_batch = _target_graphs(bundle, entry, spec, cache, options.workspace_mib)
    footprint = of_batch(batch)
    check_fits(footprint, record, cache, asked.device_memory_gib, of_batch)
    tell(f"graphs for {target}", 1.0)
    name = plan or manifest.default_plan
    return PreparedBuild(name, graphs, record, precision, spec.kv, capacity, options, footprint)


def build_engine(
    bundle: str | os.PathLike[str] | bundles.Bundle,
    target: str,
    plan: str | None = None,
    *,
    engine: EngineOptions | None = None,
    options: BuildOptions | None = None,
    progress: Progress | None = None,
    **settings: Any,
) -> bundles.Bundle:
    """Build vision and decoder engine of one plan into a bundle, all or nothing; see docs/engines.md.

    The bundle's own graphs, made for ONNX Runtime, go through surgery once more for the target; no weight is read for
    that, and no torch is needed.

    Args:
        bundle: Folder, or a checked bundle.
        target: Name of a target (``luvc-export targets``).
        plan: One of the bundle's plans; None for its default.
        engine: What the engines hold; None for what is usual.
        options: How TensorRT builds.
        progress: Told (stage, fraction of it done).
        **settings: Fields of ``EngineOptions`` by name, which go before those of ``engine``.

    Raises:
        UsageError: An unknown target or plan, an option that does not fit, or a plan too large for the target.
        BundleError: The bundle is missing, damaged, or without weights.
        MachineError: This machine lacks TensorRT, its version, a GPU, memory, or the packages that surgery needs.
        CheckFailed: TensorRT refused a graph.
    """
    from luvc_export.engines import library, targets
    from luvc_export.engines.install import install
    from luvc_export.engines.memory import building
    from luvc_export.runtime import memory

    record = targets.find(target)
    if options is not None:
        options.check(record.library)
    library.check_builds(record)
    library.load(record.library)
    opened = bundle if isinstance(bundle, bundles.Bundle) else bundles.load(bundle, task=None)
    asked = settled(EngineOptions, engine, settings, "build_engine")
    prepared = prepare_build(opened, target, plan, engine=asked, options=options, progress=progress)
    if asked.strict:
        check_strict(prepared.graphs, record)
    memory.require(
        building(prepared.footprint),
        str(opened.folder),
        f"to build engines of {memory.gib(prepared.footprint.weights)} of weights",
        "build on a machine with more memory, or close other programs",
    )
    with writing_to(opened.folder):
        built = install(opened, prepared, progress or (lambda stage, done: None))
    engine_checks.trust(built.engine(plan, target))
    return built


def adapters_of_a_call(slots: LoraSlots | None, batch: int, asked: int | None, where: str) -> int:
    """Different adapters that one call of engines takes; 0 without slots.

    Raises:
        UsageError: Some are asked for of a bundle without slots, or more than there are rows.
    """
    if slots is None:
        if asked:
            raise UsageError(
                "this bundle has no slots for adapters",
                where=where,
                got=f"--adapters {asked}",
                fix="leave --adapters out, or export the bundle with --lora-slots RANK",
            )
        return 0
    if asked is not None and not 1 <= asked <= batch:
        raise UsageError(
            "a call has no more adapters than rows",
            where="--adapters",
            got=asked,
            expected=f"1 to {batch}, the rows of --batch",
            fix="raise --batch, or export without --lora-slots for engines that take no adapter",
        )
    return min(batch, MOST_ADAPTERS) if asked is None else asked


def check_strict(graphs: Iterable[BuildInput], target: Target) -> None:
    """Refuse weights of a quantised checkpoint that an engine would hold in other numbers than the checkpoint's.

    Raises:
        UsageError: There are some: FP8 that is widened, or zeros whose shift is rounded.
    """
    rewrites = [rewrite for graph in graphs for rewrite in graph.rewrites]
    widened = [one for one in rewrites if one.precision]
    shifted = [one for one in rewrites if "shift" in one.places]
    if widened or shifted:
        size = sum(one.places["codes"].bytes for one in widened) / 2**30
        wide = f"{len(widened)} FP8 weights, {size:.2f} GiB in {widened[0].precision}" if widened else ""
        odd = f"{len(shifted)} weights with zeros, whose shift is rounded once" if shifted else ""
        raise UsageError(
            f"engines for {target.title} hold weights of this checkpoint in other numbers than its own",
            where="--strict",
            got="; ".join(filter(None, (wide, odd))),
            expected="int4 codes around 8, as GPTQ's and compressed-tensors' symmetric ones are",
            fix="leave --strict out, or export another checkpoint",
        )


def check_codes(stored: StoredCodes, target: Target) -> None:
    """Check that ``target`` takes the codes of a quantised checkpoint.

    Raises:
        UsageError: It does not; says what would.
    """
    if target.spec.packed_products:
        return
    kinds = set(stored.products.values()) - {"fp8"}  # which are widened
    if kinds and ("int8" in kinds or "int4" not in target.quantised):
        raise UsageError(
            f"{target.title} has no product for the codes of this bundle",
            where=f"--target {target.name}",
            got=f"{', '.join(sorted(kinds))} codes of quant_method {stored.method}",
            expected="int4 codes and a target with INT4 (luvc-export targets), or a target of ONNX Runtime or OpenVINO",
            fix="export the 16-bit checkpoint for this target, and luvc-export calibrate --precision int8",
        )


def _target_graphs(
    bundle: bundles.Bundle, entry: PlanEntry, spec: TargetSpec, cache: KvCacheSpec, workspace_mib: int
) -> tuple[tuple[BuildInput, BuildInput], Callable[[int], Footprint]]:
    """Vision and decoder graph of a plan in a target's dialect, and the memory they will need for a batch of so many.

    Raises:
        BundleError: The bundle has no weights.
        MachineError: The packages that surgery needs are not installed.
        CheckFailed: The target does not take the graphs.
    """
    from luvc_export.engines.builder import BuildInput
    from luvc_export.engines.memory import predict
    from luvc_export.engines.profiles import profiles

    try:
        import onnx

        from luvc_export.export.surgeon import run_passes
        from luvc_export.export.surgeon.peak_memory import peak_bytes, weight_bytes
    except ModuleNotFoundError as error:
        raise _no_surgery(error, ", or build from a folder that luvc-export pack wrote") from error
    weights = bundle.manifest.weights
    if weights.mode == "none":
        raise BundleError(
            "this bundle has no weights to build from",
            where=str(bundle.folder),
            fix="export it again without --no-weights",
        )
    inputs: list[BuildInput] = []
    peaks: list[Callable[[int], int]] = []
    for name in (entry.vision, entry.decoder):
        graph = read_graph(bundle, name)
        model, _ = run_passes(
            onnx.load_model_from_string(graph.data),
            spec,
            cache.precision,
            text_capacity=cache.capacity.text,
            groups=cache.capacity.groups,
        )
        shapes = {
            item.name: [dim.dim_value if dim.HasField("dim_value") else -1 for dim in item.type.tensor_type.shape.dim]
            for item in model.graph.input
        }

        def peak(batch: int, model: Any = model, shapes: Any = shapes) -> int:
            capacity = replace(cache.capacity, batch=batch)
            return peak_bytes(model, profiles(shapes, entry.plan, capacity, "wide")[0].maximum)

        peaks.append(peak)
        size, files = weight_bytes(model, cache.precision), tuple(graph.files.values())
        metadata = {item.key: item.value for item in model.metadata_props}.get(codes.KEY, "[]")
        rewrites = tuple(codes.Rewrite.from_json(item) for item in json.loads(metadata))
        inputs.append(BuildInput(name, model.SerializeToString(), graph.folder, entry.plan, size, files, rewrites))

    slots, itemsize = bundle.manifest.lora, BY_PRECISION[cache.precision].itemsize
    factors = slots.kept_bytes(cache.capacity.ranks, itemsize) if slots else 0

    def of_batch(batch: int) -> Footprint:
        rows = replace(cache, capacity=replace(cache.capacity, batch=batch))
        weights = inputs[0].weight_bytes, inputs[1].weight_bytes
        return predict(weights, rows, (peaks[0](batch), peaks[1](batch)), workspace_mib, factors)

    return (inputs[0], inputs[1]), of_batch


def _no_surgery(error: ModuleNotFoundError, instead: str = "") -> MachineError:
    what = "turning a bundle's graphs into a target's needs more packages than running"
    return MachineError(what, got=f"no module {error.name}", fix=f"pip install 'luvc-export[export]'{instead}")


def finish_graphs(
    bundle: str | os.PathLike[str] | bundles.Bundle,
    target: str,
    plan: str | None = None,
    progress: Progress | None = None,
) -> bundles.Bundle:
    """Write the decoders of a bundle's plans as ``target`` runs them best beside its own, all or nothing.

    ``export`` does so; this is for bundles of before. The weights stay where they are, and no weight is read.

    Args:
        bundle: Folder, or a checked bundle.
        target: Name of a target that runs graphs, such as ``cpu`` or ``intel-cpu``.
        plan: One of the bundle's plans; None for every one.
        progress: Told (stage, fraction done).

    Raises:
        UsageError: An unknown target or plan, one that graphs are not finished for, or a bundle that cannot be written.
        BundleError: The bundle is missing, damaged, or holds what is not its own.
        MachineError: The packages that surgery needs are missing.
        CheckFailed: A pass broke its promise.
    """
    from luvc_export.engines import targets

    record = targets.find(target)
    if not record.graphs:
        raise UsageError(
            "no graphs are finished for this target",
            where=f"--target {target}",
            expected=", ".join(name for name in targets.names() if targets.find(name).graphs),
        )
    try:
        from luvc_export.export.surgeon.finish import finish
    except ModuleNotFoundError as error:
        raise _no_surgery(error) from error
    opened = bundle if isinstance(bundle, bundles.Bundle) else bundles.load(bundle)
    manifest, wanted = opened.manifest, [opened.name_of(plan)] if plan else list(opened.manifest.plans)
    check_own(opened.folder, manifest)
    bare = manifest.without_sets(wanted, {target})
    gone = manifest.files.keys() - bare.files.keys()
    with writing_to(opened.folder), bundles.writing(opened.folder, overwrite=True) as folder:
        take_along(opened.folder, manifest, folder, but=frozenset({*gone, bundles.MANIFEST}), link=True)
        changed = finish(
            bundles.Bundle(folder, bare), wanted, {target: record.graphs}, progress or (lambda stage, done: None)
        )
        bundles.write_manifest(folder, changed)
    written = bundles.Bundle(opened.folder, changed)
    graph_trust.inherit(opened, written)
    return written
