"""Compare two models: the verb behind ``luvc-export parity`` and the project's own proofs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from luvc_export.bundle import folder as bundles
from luvc_export.bundle.manifest import ImageInput
from luvc_export.calibration import runners
from luvc_export.calibration.cases import Case
from luvc_export.calibration.parity.compare import compare
from luvc_export.calibration.parity.gates import check_gates
from luvc_export.calibration.parity.locate import first, walk
from luvc_export.calibration.parity.result import ParityResult
from luvc_export.calibration.parity.tolerances import RETENTION
from luvc_export.calibration.runners import Spec
from luvc_export.calibration.runners.base import Runner
from luvc_export.core.plan import Plan
from luvc_export.core.planning import PlanRequest, solve
from luvc_export.core.progress import Progress
from luvc_export.errors import UsageError
from luvc_export.export.checkpoint import Checkpoint, open_checkpoint


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
    made = compare(
        reference, candidate, cases, observe=some, longest=longest, stops=stops, batch=batch, progress=progress
    )
    steps = walk(made)
    return ParityResult(made, check_gates(made, retention=retention), steps, first(steps) if made.same else None)


def open_pair(
    left: str,
    right: str,
    image_size: tuple[int, int],
    dtype: str = "fp32",
    threads: int | None = None,
    arithmetic: str = "fp32",
) -> tuple[Runner, Runner]:
    """Open reference and candidate (see ``runners.parse``) on one canvas: a bundle's, or ``image_size``, padded.

    A torch model without ``#PLAN`` takes the plan of the bundle it is compared with, else ``thirds``.

    Raises:
        UsageError: Two bundles of different image inputs, or a description that cannot be read.
    """
    specs = runners.parse(left), runners.parse(right)
    opened = [bundles.load(spec.model) if spec.is_bundle else None for spec in specs]
    images = [item.manifest.image for item in opened if item]
    if len({(image.size, image.fit) for image in images}) > 1:
        raise UsageError("the bundles see pictures in different ways", got=[(i.size, i.fit) for i in images])
    image = images[0] if images else None
    plan = next((item.entry(spec.plan).plan for spec, item in zip(specs, opened, strict=True) if item), None)
    first, second = (_open(spec, image, image_size, plan, dtype, threads, arithmetic) for spec in specs)
    return first, second


def _open(
    spec: Spec,
    image: ImageInput | None,
    size: tuple[int, int],
    plan: Plan | None,
    dtype: str,
    threads: int | None,
    arithmetic: str,
) -> Runner:
    if spec.kind == "onnx":
        return runners.open_bundle(spec.model, spec.plan, threads)
    if spec.kind == "openvino":
        return runners.open_openvino(spec.model, spec.plan, threads, arithmetic)
    if spec.kind == "trt":
        return runners.open_engine(bundles.load(spec.model), spec.plan, spec.target)
    checkpoint = open_checkpoint(spec.model)
    canvas = image or ImageInput(size, "pad", (128, 128, 128))
    if spec.kind == "hf":
        return runners.open_huggingface(checkpoint, canvas, dtype)
    if spec.plan is not None or plan is None:
        plan = _plan(spec.plan or "thirds", checkpoint, canvas.size)
    return runners.open_torch(checkpoint, plan, canvas, dtype)


def _plan(name: str, checkpoint: Checkpoint, size: tuple[int, int]) -> Plan:
    import json

    if name.endswith(".json") and Path(name).is_file():
        return Plan.from_json(json.loads(Path(name).read_text(encoding="utf-8")), name)
    family, config = checkpoint.family, checkpoint.config
    unit = family.unit_pixels(config)
    shapes = family.decoder_shape(config), family.encoder_shape(config)
    return solve(PlanRequest(schedule=name), (size[0] // unit, size[1] // unit), *shapes)
