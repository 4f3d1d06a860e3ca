"""Everything about a bundle beside its plans, and whether it fits the family and the plans."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from luvc_export.bundle.manifest import Fit, WeightsMode
from luvc_export.core.plan import Plan
from luvc_export.core.plan.plan_set import PlanSet
from luvc_export.errors import PlanError, UsageError
from luvc_export.export.checkpoint import Checkpoint
from luvc_export.export.llm.lora_slots import SlotRequest
from luvc_export.export.llm.reduced_head import ChosenTokens
from luvc_export.export.processor import check_tiles, check_video, picture_settings


@dataclass(frozen=True)
class Options:
    """Everything about a bundle beside its plans; fields as in ``manifest``.

    Attributes:
        tiles: Grids (rows, columns) of tiles a picture may be cut to, each tile an image of ``image_size``.
        debug: Also write decoder graphs that take the kept indices as inputs (parity).
        padding: Tell the graphs which units are padding, where ``fit`` pads; without it padding takes budget, as in
            0.1.0, to compare.
        video: Give images as many frames as the family's videos have; a picture then fills all of them.
        unit_tolerance: Levels of a pixel up to which buckets take a unit for foretold by its neighbours.
        round_activations: Products of a quantised checkpoint's codes round what enters them to 8 bits by block.
        strict: Refuse a quantised checkpoint whose weights back-ends would widen or round again.
        vocabulary: The tokens that the head has rows for; None for all.
        lora_slots: Products that adapters may be beside when the bundle answers; None for none.
        task: What the bundle is made for (``core.tasks``).
        merge_vectors: ``Embedding.merged`` where a page has many vectors.
        surgery: Operate on the traced graphs; without it they stay as the exporter's optimiser left them, to compare.
    """

    image_size: tuple[int, int]
    fit: Fit = "pad"
    text_capacity: int = 1024
    dtype: str = "fp32"
    weights: WeightsMode = "copy"
    debug: bool = False
    surgery: bool = True
    tiles: tuple[tuple[int, int], ...] = ((1, 1),)
    video: bool = False
    padding: bool = True
    unit_tolerance: int = 0
    round_activations: bool = False
    strict: bool = False
    vocabulary: ChosenTokens | None = None
    lora_slots: SlotRequest | None = None
    task: str = "generate"
    merge_vectors: tuple[int, int] = (1, 1)


def check_size(checkpoint: Checkpoint, plans: Mapping[str, Plan], options: Options) -> None:
    """Check image sizes, tiles, video, text capacity and the processor against the family and the plans.

    Raises:
        UsageError: A side is no multiple of the unit, a reduced head shall stay in the checkpoint, the family has no
            such tiles or no video, or the text does not fit the model's context.
        PlanError: A plan was made for another grid.
        CheckpointError: The settings of pictures are missing or contradict each other.
    """
    together = PlanSet.of(plans)
    if options.vocabulary is not None and options.weights == "reference":
        raise UsageError(
            "a reduced head lies nowhere but in the bundle",
            where="--vocab",
            got="--weights reference",
            expected="--weights copy",
        )
    checkpoint.family.cuts(checkpoint.config, options.tiles)
    picture_settings(checkpoint)
    check_tiles(checkpoint, options.tiles, options.image_size)
    if options.video:
        check_video(checkpoint)
    if options.video and checkpoint.family.video(checkpoint.config) is None:
        raise UsageError(
            f"{checkpoint.family.model_type} takes no video here",
            where="--video",
            expected="a family of docs/families.md that does",
            fix="leave --video out and ask about frames as pictures",
        )
    video = checkpoint.family.video(checkpoint.config) if options.video else None
    if video is not None and video.pooled and not any(plan.sharing.kind == "clip" for plan in plans.values()):
        raise UsageError(
            f"{checkpoint.family.model_type} pools frames, so its videos have plans of their own",
            where="--video",
            got="plans for pictures",
            expected="--joint-frames N, which makes NAME@video beside them",
        )
    if options.round_activations and checkpoint.method is None:
        raise UsageError(
            "activations are rounded for products of codes, and this checkpoint has none",
            where="--round-activations",
            expected="a checkpoint of docs/quantised-checkpoints.md",
            fix="leave it out; luvc-export calibrate --precision q4 quantises the bundle",
        )
    if not 0 <= options.unit_tolerance <= 255:
        got, expected = options.unit_tolerance, "0 to 255 levels of a pixel"
        raise UsageError("this is no tolerance", where="--unit-tolerance", got=got, expected=expected)
    if options.unit_tolerance and not any(plan.encoder.takes_units for plan in plans.values()):
        fix = "--unit-buckets 25,50,75,100"
        raise UsageError("a tolerance is for buckets, and there are none", where="--unit-tolerance", fix=fix)
    for name, plan in plans.items():
        if plan.sharing.tiles is not None:
            _check_tiled(checkpoint, name, plan, options)
        elif plan.sharing.images > 1 and not options.video:
            raise UsageError(
                "a budget that images share is for videos, or for tiles of a picture",
                where=name,
                got=f"{plan.sharing.images} images to a budget",
                expected="one image to a budget, a bundle with --video, or a plan that says joint_tiles",
            )
        _check_plan(checkpoint, name, plan, together.size_of(name, options.image_size))
    context = checkpoint.family.decoder_shape(checkpoint.config).context
    if not 1 <= options.text_capacity <= context:
        raise UsageError(
            "the text capacity does not fit the model",
            where="--text-capacity",
            got=options.text_capacity,
            expected=f"1 to {context} (the model's context)",
        )


def _check_tiled(checkpoint: Checkpoint, name: str, plan: Plan, options: Options) -> None:
    cuts = {cut.tiles: cut.images for cut in checkpoint.family.cuts(checkpoint.config, options.tiles)}
    if cuts.get(plan.sharing.tiles or (1, 1)) != plan.sharing.images:
        raise UsageError(
            "a picture is not cut into the tiles that share this plan's budget",
            where=name,
            got=f"joint_tiles {plan.sharing.tiles}, joint_images {plan.sharing.images}",
            expected=f"one of {', '.join(f'{grid} of {count}' for grid, count in cuts.items())}",
            fix="--tiles with these rows and columns",
        )


def _check_plan(checkpoint: Checkpoint, name: str, plan: Plan, size: tuple[int, int]) -> None:
    unit, fixed = checkpoint.family.unit_pixels(checkpoint.config), checkpoint.family.image_size(checkpoint.config)
    height, width = size
    if fixed and fixed != size:
        raise UsageError(
            "this model takes one image size only",
            where="--image-size",
            got=f"{height}x{width}",
            expected=f"{fixed[0]}x{fixed[1]}, which its position embeddings are learned for",
            fix=f"--image-size {fixed[0]}x{fixed[1]}",
        )
    if not fixed and (height % unit or width % unit or min(height, width) < unit):
        nearest = tuple(max(unit, round(side / unit) * unit) for side in (height, width))
        raise UsageError(
            "the image size does not fit the model",
            where="--image-size",
            got=f"{height}x{width}",
            expected=f"multiples of {unit}",
            fix=f"--image-size {nearest[0]}x{nearest[1]}",
        )
    video = checkpoint.family.video(checkpoint.config)
    pooled = video.pooled if video is not None and plan.encoder.pooled_from is not None else None
    if plan.encoder.tower_grid != (height // unit, width // unit) or (pooled is not None and plan.grid != pooled):
        raise PlanError(
            "the plan is for another image size",
            where=name,
            got=f"grid {plan.encoder.tower_grid}",
            expected=f"{(height // unit, width // unit)} for {height}x{width}",
        )
    if (plan.encoder.pooled_from is not None) != (
        plan.sharing.kind == "clip" and video is not None and bool(video.pooled)
    ):
        raise PlanError(
            "the plan is not for what this model makes of frames",
            where=name,
            got="pooled frames" if plan.encoder.pooled_from else "frames that are not pooled",
            expected="--joint-frames of a model that pools frames, such as LLaVA-OneVision, and of no other",
        )
