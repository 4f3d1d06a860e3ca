"""The public verbs: plan, export, build, load. Each is one call; the CLI is a thin layer on them."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from luvc_export.bundle import folder as bundles
from luvc_export.bundle.manifest import Fit, Footprint, PlanEntry, WeightsMode
from luvc_export.core import precision as precisions
from luvc_export.core.plan import LastLayer, Plan
from luvc_export.core.planning import DEFAULT_SCHEDULE, PlanRequest, check_model, solve
from luvc_export.core.progress import Progress
from luvc_export.core.target import Kv, Precision, TargetSpec
from luvc_export.errors import BundleError, MachineError, UsageError

if TYPE_CHECKING:
    from luvc_export.engines.builder import BuildInput
    from luvc_export.engines.memory import KvCacheSpec
    from luvc_export.engines.options import BuildOptions
    from luvc_export.export.checkpoint import Checkpoint
    from luvc_export.runtime.session import Session

#: Height and width where neither the user nor the family says one: 576 visual tokens for Qwen's 28-pixel units.
DEFAULT_IMAGE_SIZE = (672, 672)


def make_plan(
    model: str | Checkpoint,
    schedule: str | Sequence[int] = DEFAULT_SCHEDULE,
    *,
    image_size: tuple[int, int] | None = None,
    merge_keep: float = 0.75,
    merge_at: Sequence[int] | None = None,
    speedup: float | None = None,
    kv_mib: float | None = None,
    text: int = 64,
    last_layer: LastLayer | None = None,
    joint_images: int = 1,
    revision: str | None = None,
    **switches: Any,
) -> Plan:
    """Make a plan for a checkpoint; only its config is read.

    Args:
        model: Folder or hub id, or an opened checkpoint.
        schedule: ``even``, ``thirds``, ``linear``, ``cosine``, ``none``, or one budget per layer.
        image_size: Height and width in pixels, multiples of the family's unit; None for the family's own size.
        merge_keep: Share of units that merging in the encoder keeps.
        merge_at: Encoder blocks to merge after, instead of the default spread.
        speedup: Solve for this factor on LLM prefill FLOPs, ``text`` text tokens counted.
        kv_mib: Solve for a KV cache of this many MiB (16-bit), ``text`` text tokens counted.
        text: Text tokens for the two above.
        last_layer: ``drop``, ``kv_only`` or ``full``; None chooses by schedule.
        joint_images: Images that share one budget: those of a video, see ``images_of_video``.
        revision: Hub revision.
        **switches: Other fields of ``Plan``: score, rho, axis, spectrum, merge_mode, positions, windows, size_bias,
            reducer, seed, topk_limit.

    Raises:
        PlanError: The plan cannot be made; lists every problem.
        CheckpointError: No such checkpoint or family.
    """
    checkpoint = _checkpoint(model, revision, weights=False)
    family, config = checkpoint.family, checkpoint.config
    unit = family.unit_pixels(config)
    size = image_size or default_image_size(checkpoint)
    blocks = tuple(merge_at) if merge_at is not None else None
    request = PlanRequest(schedule, merge_keep, blocks, speedup, kv_mib, text, last_layer, joint_images)
    grid = (max(1, size[0] // unit), max(1, size[1] // unit))
    return solve(request, grid, family.decoder_shape(config), family.encoder_shape(config), **switches)


def export_bundle(
    model: str | Checkpoint,
    output: str | os.PathLike[str],
    plans: str | Plan | Mapping[str, Plan] = DEFAULT_SCHEDULE,
    *,
    image_size: tuple[int, int] | Sequence[tuple[int, int]] | None = None,
    fit: Fit = "pad",
    tiles: Sequence[tuple[int, int]] = ((1, 1),),
    video: bool = False,
    joint_frames: int | None = None,
    text_capacity: int = 1024,
    dtype: str = "fp32",
    weights: WeightsMode = "copy",
    debug: bool = False,
    overwrite: bool = False,
    revision: str | None = None,
    lora: str | None = None,
    progress: Progress | None = None,
) -> bundles.Bundle:
    """Export a checkpoint to a bundle of ONNX graphs with the plans' compression inside.

    Args:
        model: Folder or hub id, or an opened checkpoint.
        output: Folder to write; appears whole or not at all.
        plans: A schedule's name, a plan, or several plans by name, the first being the default. A plan ``NAME@HxW`` is
            ``NAME`` for images of another size; the runtime takes the one that fits a picture best.
        image_size: Height and width of the image input in pixels; None for the family's own size. Several where
            ``plans`` is a schedule's name.
        fit: How pictures of another shape are brought to it.
        tiles: Grids (rows, columns) of tiles a picture may be cut to, where the family does that.
        video: Take videos too, where the family does.
        joint_frames: Where ``plans`` is a schedule's name: beside it, a plan ``NAME@video`` whose budgets are for a
            whole video of so many frames, which it keeps the best tokens of. Implies ``video``.
        text_capacity: Text tokens, prompt and answer, the bundle is sized for.
        dtype: Arithmetic of the graphs: fp32, fp16 or bf16.
        weights: ``copy`` into the bundle, ``reference`` where the checkpoint has them, or ``none``.
        debug: Also write decoder graphs that take the kept indices as inputs.
        overwrite: Replace an existing bundle.
        revision: Hub revision.
        lora: Folder of a peft adapter to merge into the weights first.
        progress: Told (stage, fraction of it done).

    Raises:
        LuvcError: See ``make_plan`` and ``luvc_export.export.bundling.write_bundle``.
    """
    if lora is not None and weights != "copy":
        raise UsageError(
            "merged weights lie nowhere but in the bundle",
            where="--lora",
            got=f"--weights {weights}",
            expected="--weights copy",
        )
    if joint_frames is not None and not isinstance(plans, str):
        raise UsageError(
            "plans say themselves how many images share their budgets",
            where="joint_frames",
            got=joint_frames,
            fix="make_plan(..., joint_images=N) for the plan NAME@video",
        )
    checkpoint = _checkpoint(model, revision, weights=weights != "none")
    sizes = as_sizes(image_size) or [default_image_size(checkpoint)]
    if isinstance(plans, str):
        shared = {"": 1} if joint_frames is None else {"": 1, "@video": images_of_video(checkpoint, joint_frames)}
        plans = {
            sized(plans + kind, size, sizes[0]): make_plan(checkpoint, plans, image_size=size, joint_images=images)
            for kind, images in shared.items()
            for size in sizes
        }
    elif isinstance(plans, Plan):
        plans = {plans.schedule.replace(" ", "-"): plans}
    if not plans:
        raise UsageError("there is nothing to export", where="plans", expected="at least one plan")
    shapes = checkpoint.family.decoder_shape(checkpoint.config), checkpoint.family.encoder_shape(checkpoint.config)
    for plan in plans.values():
        check_model(plan, *shapes)
    from luvc_export.export.bundling import write_bundle
    from luvc_export.export.options import Options

    video = video or joint_frames is not None
    options = Options(sizes[0], fit, text_capacity, dtype, weights, debug, tiles=tuple(tiles), video=video)
    tell = progress or (lambda stage, done: None)
    if lora is None:
        return write_bundle(checkpoint, dict(plans), Path(output), options, overwrite, tell)
    from luvc_export.export.lora import merged

    bundles.check_target(Path(output), overwrite)
    with merged(checkpoint, lora) as whole:
        return write_bundle(whole, dict(plans), Path(output), options, overwrite, tell)


def build_engine(
    bundle: str | os.PathLike[str] | bundles.Bundle,
    target: str,
    plan: str | None = None,
    *,
    precision: Precision | None = None,
    kv: Kv | None = None,
    text_capacity: int | None = None,
    images: int = 1,
    batch: int = 1,
    logits: int = 1,
    options: BuildOptions | None = None,
    device_memory_gib: float | None = None,
    progress: Progress | None = None,
) -> bundles.Bundle:
    """Build vision and decoder engine of one plan into a bundle, all or nothing; see docs/engines.md.

    The bundle's own graphs, made for ONNX Runtime, go through surgery once more for the target; no weight is read for
    that, and no torch is needed.

    Args:
        bundle: Folder, or a checked bundle.
        target: Name of a target (``luvc-export targets``).
        plan: One of the bundle's plans; None for its default.
        precision: Arithmetic; None for the bundle's own if that is 16-bit, else the target's first.
        kv: Form of the cache; None for the target's own.
        text_capacity: Text tokens of a conversation; None for the bundle's.
        images: Images of a conversation.
        batch: Rows of a batch.
        logits: Positions of one call whose logits are wanted; 1 to generate.
        options: How TensorRT builds.
        device_memory_gib: Memory of the device; None for the target's largest variant.
        progress: Told (stage, fraction of it done).

    Raises:
        UsageError: An unknown target or plan, an option that does not fit, or a plan too large for the target.
        BundleError: The bundle is missing, damaged, or without weights.
        MachineError: This machine lacks TensorRT, its version, a GPU, memory, or the packages that surgery needs.
        CheckFailed: TensorRT refused a graph.
    """
    from luvc_export.engines import library, targets
    from luvc_export.engines.install import install
    from luvc_export.engines.memory import KvCacheSpec, building, check_fits
    from luvc_export.engines.options import BuildOptions as Options
    from luvc_export.engines.profiles import Capacity
    from luvc_export.runtime import memory

    record = targets.find(target)
    options = options or Options()
    options.check(record.library)
    library.check_builds(record)
    library.load(record.library)
    opened = bundle if isinstance(bundle, bundles.Bundle) else bundles.load(bundle)
    manifest, entry = opened.manifest, opened.entry(plan)
    if entry.quantised is not None:
        precisions.check_target(precisions.find(entry.quantised.precision), record)
    if precision is None:
        precision = manifest.dtype if manifest.dtype != "fp32" else record.spec.precisions[0]
    capacity = Capacity(text_capacity or manifest.prompt.text_capacity, images, batch, logits)
    spec = options.spec(record.with_kv(kv or record.spec.kv))
    cache = KvCacheSpec(entry.plan, manifest.decoder, capacity, precision, spec.kv)
    graphs, footprint = target_graphs(opened, entry, spec, cache, options.workspace_mib)
    check_fits(footprint, record, cache, device_memory_gib)
    memory.require(
        building(footprint),
        str(opened.folder),
        f"to build engines of {memory.gib(footprint.weights)} of weights",
        "build on a machine with more memory, or close other programs",
    )
    return install(
        opened,
        plan or manifest.default_plan,
        graphs,
        record,
        precision,
        spec.kv,
        capacity,
        options,
        footprint,
        progress or (lambda stage, done: None),
    )


def load_bundle(
    folder: str | os.PathLike[str],
    backend: str | None = None,
    plan: str | None = None,
    *,
    threads: int | None = None,
    verify: bool = False,
    allow_unverified: bool = False,
) -> Session:
    """Check a bundle and give a session that answers questions about pictures.

    Args:
        folder: Bundle.
        backend: ``cpu`` (default), ``cuda``, ``tensorrt``, or ``tensorrt:TARGET``.
        plan: One of the bundle's plans; None for its default.
        threads: CPU threads; None for all cores.
        verify: Hash large weight files too.
        allow_unverified: Load engines other than those ``luvc.json`` names. An engine is executable code: it may do
            whatever its author wants on this machine.

    Raises:
        BundleError: The bundle is missing, damaged, unsafe or newer.
        MachineError: The back-end is not installed, or memory is short.
    """
    from luvc_export.runtime.backends import open_backend
    from luvc_export.runtime.session import Session

    bundle, name = bundles.load(folder, full=verify), backend or "cpu"
    chosen = open_backend(name, bundle, plan, threads, allow_unverified=True) if allow_unverified else name
    return Session(bundle, chosen, plan, threads)


def images_of_video(checkpoint: Checkpoint, frames: int) -> int:
    """Images that a video of ``frames`` frames becomes: ``Plan.joint_images``.

    Raises:
        UsageError: The family takes no video, or ``frames`` do not fill its images.
    """
    video = checkpoint.family.video(checkpoint.config)
    if video is None or frames < 1 or frames % video.frames:
        raise UsageError(
            "so many frames make no video for this model",
            where="joint_frames",
            got=frames,
            expected="a family that takes videos" if video is None else f"a multiple of {video.frames}",
        )
    return frames // video.frames


def as_sizes(image_size: tuple[int, int] | Sequence[tuple[int, int]] | None) -> list[tuple[int, int]]:
    """Image sizes (height, width), however many were given."""
    given = list(image_size or ())
    return [(given[0], given[1])] if given and isinstance(given[0], int) else given  # type: ignore[list-item, return-value]


def sized(plan: str, size: tuple[int, int], first: tuple[int, int]) -> str:
    """Name of ``plan`` for images of ``size`` in a bundle whose first size is ``first``."""
    return plan if size == first else f"{plan}@{size[0]}x{size[1]}"


def default_image_size(checkpoint: Checkpoint) -> tuple[int, int]:
    """Height and width a checkpoint was made for, or ``DEFAULT_IMAGE_SIZE`` where the family takes any."""
    return checkpoint.family.image_size(checkpoint.config) or DEFAULT_IMAGE_SIZE


def _checkpoint(model: str | Checkpoint, revision: str | None, weights: bool) -> Checkpoint:
    if not isinstance(model, str | os.PathLike):
        return model
    try:
        from luvc_export.export.checkpoint import open_checkpoint
    except ModuleNotFoundError as error:
        raise MachineError(
            "exporting needs more packages than running",
            got=f"no module {error.name}",
            fix="pip install 'luvc-export[export,cpu]'",
        ) from error
    return open_checkpoint(os.fspath(model), revision, weights)


def target_graphs(
    bundle: bundles.Bundle, entry: PlanEntry, spec: TargetSpec, cache: KvCacheSpec, workspace_mib: int
) -> tuple[tuple[BuildInput, BuildInput], Footprint]:
    """Vision and decoder graph of a plan in a target's dialect, and the memory they will need.

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
        raise MachineError(
            "turning a bundle's graphs into a target's needs more packages than running",
            got=f"no module {error.name}",
            fix="pip install 'luvc-export[export]', or build from a folder that luvc-export pack wrote",
        ) from error
    weights = bundle.manifest.weights
    if weights.mode == "none":
        raise BundleError(
            "this bundle has no weights to build from",
            where=str(bundle.folder),
            fix="export it again without --no-weights",
        )
    made: list[BuildInput] = []
    peaks: list[int] = []
    for name in (entry.vision, entry.decoder):
        model, _ = run_passes(
            onnx.load(bundle.path(name), load_external_data=False),
            spec,
            cache.precision,
            text_capacity=cache.capacity.text,
            groups=cache.capacity.groups,
        )
        shapes = {
            item.name: [dim.dim_value if dim.HasField("dim_value") else -1 for dim in item.type.tensor_type.shape.dim]
            for item in model.graph.input
        }
        largest = profiles(shapes, entry.plan, cache.capacity, "wide")[0].maximum
        peaks.append(peak_bytes(model, largest))
        folder = Path(weights.folder) if weights.folder else bundle.folder
        size = weight_bytes(model, cache.precision)
        made.append(BuildInput(name, model.SerializeToString(), folder, entry.plan, size))
    footprint = predict((made[0].weight_bytes, made[1].weight_bytes), cache, (peaks[0], peaks[1]), workspace_mib)
    return (made[0], made[1]), footprint
