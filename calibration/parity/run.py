"""Compare two models: the verb behind ``luvc-export parity`` and the project's own proofs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from luvc_export.bundle import folder as bundles
from luvc_export.bundle.manifest import Manifest
from luvc_export.calibration import runners
from luvc_export.calibration.cases import Case
from luvc_export.calibration.parity.compare import compare
from luvc_export.calibration.parity.result import ParityResult, check_gates, first, walk
from luvc_export.calibration.parity.tolerances import RETENTION
from luvc_export.calibration.runners import Spec
from luvc_export.calibration.runners.base import Runner
from luvc_export.calibration.runners.canvas import Grids, canvas, canvas_of
from luvc_export.core.plan import Plan, Sharing, read_plan
from luvc_export.core.planning import LlmRequest, PlanRequest, solve
from luvc_export.errors import BundleError, Progress, UsageError
from luvc_export.export.checkpoint import Checkpoint, open_checkpoint
from luvc_export.export.compression import scores
from luvc_export.export.compression.scorer_file import file_name, remember, scorer_of


def parity(
    reference: Runner,
    candidate: Runner,
    cases: Sequence[Case],
    *,
    observe: int = 16,
    longest: int = 16,
    stops: bool = False,
    batch: int = 2,
    retention: float = RETENTION.value,
    progress: Progress = lambda stage, done: None,
) -> ParityResult:
    """Measure, check the gates, locate. Arguments as of ``compare.compare``; ``retention`` as of ``check_gates``."""
    some = min(observe, len(cases))
    comparison = compare(
        reference, candidate, cases, observe=some, longest=longest, stops=stops, batch=batch, progress=progress
    )
    steps = walk(comparison)
    return ParityResult(
        comparison, check_gates(comparison, retention=retention), steps, first(steps) if comparison.same else None
    )


def open_pair(
    left: str,
    right: str,
    image_size: tuple[int, int] | None = None,
    dtype: str = "fp32",
    threads: int | None = None,
    tiles: Grids = ((1, 1),),
    video: bool = False,
    arithmetic: str = "fp32",
    frames: int = 0,
) -> tuple[Runner, Runner]:
    """Open reference and candidate (see ``runners.parse``) on one canvas: a bundle's, or one made of the options.

    A torch model without ``#PLAN`` takes the plan of the bundle it is compared with, else ``thirds``.

    Args:
        left: Reference.
        right: Candidate.
        image_size: Height and width where there is no bundle; None for the checkpoint's own.
        dtype: Of hf and torch.
        threads: CPU threads of bundles.
        tiles: Grids of tiles where there is no bundle.
        video: Whether images have a video's frames where there is no bundle.
        arithmetic: Of OpenVINO.
        frames: Of a clip that shares budgets where there is no bundle; 0 for budgets of single pictures.

    Raises:
        UsageError: Two bundles of different image inputs, a description that cannot be read, or a video for a
            family that takes none.
    """
    specs = runners.parse(left), runners.parse(right)
    opened = [(bundles.load(spec.model, task=None), spec.plan) for spec in specs if spec.is_bundle]
    if len(made_for := sorted({bundle.manifest.task for bundle, _ in opened})) > 1:
        raise UsageError("the bundles are made for unlike tasks", where="parity", got=", ".join(made_for))
    for bundle, _ in opened:
        _learn_scorers(bundle)
    images = [
        (bundle.entry(plan).size or bundle.manifest.image.size, bundle.manifest.image.fit) for bundle, plan in opened
    ]
    if len({*images}) > 1:
        raise UsageError("the bundles see pictures in different ways", got=images)

    def seen(checkpoint: Checkpoint) -> Manifest:
        if opened:
            return canvas_of(checkpoint, *opened[0])
        size = image_size or checkpoint.family.usual_size(checkpoint.config)
        return canvas(checkpoint, size, tiles=tiles, video=video)

    plan = opened[0][0].entry(opened[0][1]).plan if opened else None
    first, second = (_open(spec, seen, plan, dtype, threads, arithmetic, frames) for spec in specs)
    return first, second


def _learn_scorers(bundle: bundles.Bundle) -> None:
    """Open the scorers of a bundle's plans, which torch needs to do as its graphs do.

    Raises:
        BundleError: A plan names one that the bundle has not.
    """
    for name, entry in bundle.manifest.plans.items():
        wanted = scorer_of(entry.plan)
        record = bundle.manifest.files.get(file := file_name(wanted)) if wanted else None
        if wanted and (record is None or record.sha256 != wanted):
            raise BundleError(
                "the bundle lacks the scorer that a plan of it names",
                where=f"{bundle.folder}: plans.{name}.scorer",
                got=None if record is None else f"{file} of sha256 {record.sha256[:16]}...",
                expected=f"sha256 {wanted[:16]}...",
                fix="export it again",
            )
        if wanted:
            remember(bundle.read(file), str(bundle.folder / file))


def _open(
    spec: Spec,
    seen: Callable[[Checkpoint], Manifest],
    plan: Plan | None,
    dtype: str,
    threads: int | None,
    arithmetic: str,
    frames: int,
) -> Runner:
    if spec.kind == "onnx":
        if bundles.read_manifest(Path(spec.model)).dtype == "bf16":
            raise UsageError(
                "ONNX Runtime computes nothing in bf16 on a CPU, so parity cannot ask this bundle there",
                where=spec.model,
                fix=f"compare openvino:{spec.model}, or the same plan exported in fp32 or fp16",
            )
        return runners.open_bundle(spec.model, spec.plan, threads)
    if spec.kind == "openvino":
        return runners.open_openvino(spec.model, spec.plan, threads, arithmetic)
    if spec.kind == "trt":
        return runners.open_engine(bundles.load(spec.model), spec.plan, spec.target)
    checkpoint = open_checkpoint(spec.model)
    manifest = seen(checkpoint)
    sharing = Sharing(max(1, frames // manifest.image.frames))
    if spec.kind == "hf":
        return runners.open_huggingface(checkpoint, manifest, dtype, plan.sharing if plan else sharing)
    if spec.plan is not None or plan is None:
        padding = plan.encoder.padding if plan is not None else manifest.image.fit == "pad"
        sharing = plan.sharing.without_quota() if plan is not None else sharing
        plan = _plan(spec.plan or "thirds", checkpoint, manifest.image.size, sharing).changed(padding=padding)
    return runners.open_torch(checkpoint, plan, manifest, dtype)


def _plan(name: str, checkpoint: Checkpoint, size: tuple[int, int], sharing: Sharing) -> Plan:
    if name.endswith(".json") and Path(name).is_file():
        return read_plan(Path(name))
    family, config = checkpoint.family, checkpoint.config
    unit = family.unit_pixels(config)
    shapes = family.decoder_shape(config), family.encoder_shape(config)
    request = PlanRequest(LlmRequest(name), sharing=sharing)
    return scores.described(solve(request, (size[0] // unit, size[1] // unit), *shapes))
