"""Plans for a checkpoint: one, or all that an export writes."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from luvc_export.core.plan import LastLayer, Plan, Quota
from luvc_export.core.planning import DEFAULT_SCHEDULE, EncoderPruneRequest, PlanRequest, solve
from luvc_export.core.shapes import DEFAULT_IMAGE_SIZE
from luvc_export.core.unit_buckets import check_shares, with_buckets
from luvc_export.errors import MachineError, PlanError, UsageError, did_you_mean

if TYPE_CHECKING:
    from luvc_export.export.checkpoint import Checkpoint

ImageSize = tuple[int, int]
#: A schedule's name, one budget per LLM layer, or a plan that is taken as it is.
PlanSource = str | Sequence[int] | Plan


def make_plan(
    model: str | Checkpoint,
    schedule: str | Sequence[int] = DEFAULT_SCHEDULE,
    *,
    image_size: tuple[int, int] | None = None,
    merge_keep: float | None = None,
    merge_at: Sequence[int] | None = None,
    merge_schedule: str = "late",
    encoder_prune: EncoderPruneRequest | None = None,
    speedup: float | None = None,
    kv_mib: float | None = None,
    text: int = 64,
    last_layer: LastLayer | None = None,
    joint_images: int = 1,
    kv_only: Sequence[int] = (),
    revision: str | None = None,
    **switches: Any,
) -> Plan:
    """Make a plan for a checkpoint; only its config is read.

    Args:
        model: Folder or hub id, or an opened checkpoint.
        schedule: ``even``, ``thirds``, ``linear``, ``cosine``, ``none``, ``fast``, or one budget per layer.
        image_size: Height and width in pixels, multiples of the family's unit; None for the family's own size.
        merge_keep: Share of units that merging in the encoder keeps; None is 0.75, or 1 where the encoder prunes.
        merge_at: Encoder blocks to merge after, in place of those of the schedule.
        merge_schedule: Where the encoder merges: ``late``, ``gradual``, ``early``, or ``windows``, inside windows.
        encoder_prune: Units that leave the later blocks of the encoder; None for none.
        speedup: Solve for this factor on LLM prefill FLOPs, ``text`` text tokens counted.
        kv_mib: Solve for a KV cache of this many MiB (16-bit), ``text`` text tokens counted.
        text: Text tokens for the two above.
        last_layer: ``drop``, ``kv_only`` or ``full``; None chooses by schedule.
        joint_images: Images that share one budget: those of a video or of a picture in tiles, see ``images_of_video``
            and ``images_of_tiles``.
        kv_only: LLM layers in which visual tokens give keys and values and nothing else.
        revision: Hub revision.
        **switches: Other fields of ``Plan``: score, rho, axis, spectrum, steps, scorer, merge_mode, positions, windows,
            size_bias, reducer, seed, aggregate, quota, joint_tiles, topk_limit. ``none`` heeds no ``aggregate`` and no
            ``quota``.

    Raises:
        PlanError: The plan cannot be made; lists every problem.
        CheckpointError: No such checkpoint or family.
    """
    checkpoint = open_model(model, revision, weights=False)
    family, config = checkpoint.family, checkpoint.config
    unit = family.unit_pixels(config)
    size = image_size or default_image_size(checkpoint)
    blocks = tuple(merge_at) if merge_at is not None else None
    request = PlanRequest(
        schedule, merge_keep, blocks, speedup, kv_mib, text, last_layer, joint_images, tuple(kv_only), merge_schedule,
        encoder_prune,
    )  # fmt: skip
    grid = (max(1, size[0] // unit), max(1, size[1] // unit))
    _check_score(switches.get("score", Plan.score), switches.get("steps", 0))
    plan = solve(request, grid, family.decoder_shape(config), family.encoder_shape(config), **switches)
    check_scorer(plan, family.decoder_shape(config).hidden)
    check_grid(checkpoint, plan, size)
    return plan


def check_grid(checkpoint: Checkpoint, plan: Plan, size: tuple[int, int]) -> None:
    """Check that the model takes images of ``size``, height and width in pixels, and that ``plan`` is for them.

    Raises:
        UsageError: A side is no multiple of the unit, or the model takes another size only.
        PlanError: The plan is for another size.
    """
    from luvc_export.export.options import Options, check_size

    video = plan.sharing.images > 1 and plan.sharing.tiles is None
    tiles = ((1, 1),) if plan.sharing.tiles is None else (plan.sharing.tiles,)
    check_size(checkpoint, {plan.schedule: plan}, Options(size, text_capacity=1, video=video, tiles=tiles))


def check_scorer(plan: Plan, hidden: int) -> None:
    """Check that the scorer which a plan names is at hand, and for this model and these prunes.

    Raises:
        PlanError: It is not.
    """
    if plan.llm.method["scorer"]:
        from luvc_export.export.compression.scorer_file import known

        known(plan.llm.method["scorer"]).check(plan, hidden)


def _check_score(name: str, steps: int) -> None:
    from luvc_export.export.compression import scores

    if name not in scores.names():
        raise PlanError("unknown score", where="--score", got=repr(name), expected=did_you_mean(name, scores.names()))
    if steps and not scores.find(name).takes_rounds:
        able = ", ".join(one for one in scores.names() if scores.find(one).takes_rounds)
        raise PlanError("this score chooses in no rounds", where="--steps", got=f"score {name!r}", expected=able)


def make_plans(
    model: str | Checkpoint,
    sources: Sequence[str] | Mapping[str, PlanSource] = (DEFAULT_SCHEDULE,),
    *,
    image_size: ImageSize | Sequence[ImageSize] | None = None,
    joint_frames: int | None = None,
    joint_tiles: tuple[int, int] | None = None,
    unit_buckets: Sequence[int] = (),
    speedup: float | None = None,
    kv_mib: float | None = None,
    last_layer: LastLayer | None = None,
    kv_only: Sequence[int] = (),
    quota: Quota = Plan.quota,
    revision: str | None = None,
    **choices: Any,
) -> dict[str, Plan]:
    """Make every plan of a bundle, by the names ``export_bundle`` takes; only the checkpoint's config is read.

    A plan has its source's name; for an image size other than the first it is ``NAME@HxW``, and with ``joint_frames``
    there is ``NAME@video`` beside it, with ``joint_tiles`` ``NAME@tiles``. ``none`` prunes nothing, so what shapes
    budgets does not touch it.

    Args:
        model: Folder or hub id, or an opened checkpoint.
        sources: Names of schedules; or by name, schedules, budgets or plans. The first becomes the bundle's default.
        image_size: Height and width in pixels, one or several; None for the family's own size.
        joint_frames: Also make plans whose budgets so many frames of a video share.
        joint_tiles: Also make plans whose budgets so many rows and columns of tiles of a picture share.
        unit_buckets: Percentages, ascending: beside each plan for pictures also ``NAME@50`` and so on, whose graphs
            compute that share of the units, named by the host; 100 is the plan itself. Nothing merges then unless
            ``merge_keep`` says so, which is refused.
        speedup: See ``make_plan``.
        kv_mib: See ``make_plan``.
        last_layer: See ``make_plan``.
        kv_only: See ``make_plan``.
        quota: See ``Plan``; with ``joint_frames`` or ``joint_tiles``, only of the plans whose budgets are shared.
        revision: Hub revision.
        **choices: Other arguments of ``make_plan``.

    Raises:
        PlanError: A plan cannot be made, or have these buckets; lists every problem.
        CheckpointError: No such checkpoint or family.
        UsageError: ``joint_frames`` or ``joint_tiles`` with fixed budgets, or they make no video or no tiles for this
            model; or see ``check_shares``.
    """
    if unit_buckets:
        check_shares(unit_buckets)
        choices = {**choices, "merge_keep": 1.0 if choices.get("merge_keep") is None else choices["merge_keep"]}
    checkpoint = open_model(model, revision, weights=False)
    named = sources if isinstance(sources, Mapping) else {name: name for name in sources}
    fixed = [name for name, source in named.items() if not isinstance(source, str)]
    joint = {"--joint-frames": joint_frames, "--joint-tiles": joint_tiles}
    flags = [flag for flag, value in joint.items() if value is not None]
    if fixed and flags:
        raise UsageError(
            "fixed budgets are for one image or for those that share them",
            where=flags[0],
            got=f"--plan {fixed[0]}",
            expected="a schedule's name; or a plan file that says joint_images, with --video or --tiles",
        )
    sizes = as_sizes(image_size) or [default_image_size(checkpoint)]
    shared: dict[str, dict[str, Any]] = {"": {"quota": "none" if flags else quota}}
    if joint_frames is not None:
        shared["@video"] = {"joint_images": images_of_video(checkpoint, joint_frames), "quota": quota}
    if joint_tiles is not None:
        images = images_of_tiles(checkpoint, joint_tiles)
        shared["@tiles"] = {"joint_images": images, "joint_tiles": joint_tiles, "quota": quota}
    solving: dict[str, Any] = {"speedup": speedup, "kv_mib": kv_mib, "last_layer": last_layer, "kv_only": kv_only}
    plans = {}
    for kind, sharing in shared.items():
        for name, source in named.items():
            if source == "none" and kind:
                continue
            for size in sizes:
                plans[_plan_name(name + kind, size, sizes[0])] = (
                    source
                    if isinstance(source, Plan)
                    else make_plan(
                        checkpoint,
                        source,
                        image_size=size,
                        **sharing,
                        **({} if source == "none" else solving),
                        **choices,
                    )
                )
    return with_buckets(plans, unit_buckets) if unit_buckets else plans


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


def images_of_tiles(checkpoint: Checkpoint, grid: tuple[int, int]) -> int:
    """Images that a picture in ``grid`` (rows, columns) of tiles becomes, the whole among them if the family shows it.

    Raises:
        UsageError: The family makes no such tiles, or it is one.
    """
    cuts = [cut for cut in checkpoint.family.cuts(checkpoint.config, (grid,)) if cut.tiles == grid]
    if min(grid) < 1 or grid[0] * grid[1] < 2 or not cuts:
        raise UsageError(
            "so many tiles share no budget",
            where="--joint-tiles",
            got=f"{grid[0]}x{grid[1]}",
            expected="rows and columns of at least two tiles that this family makes of a picture",
        )
    return cuts[-1].images


def as_sizes(image_size: ImageSize | Sequence[ImageSize] | None) -> list[ImageSize]:
    """Image sizes (height, width), however many were given."""
    given = list(image_size or ())
    return [(given[0], given[1])] if given and isinstance(given[0], int) else given  # type: ignore[list-item, return-value]


def default_image_size(checkpoint: Checkpoint) -> ImageSize:
    """Height and width a checkpoint was made for, or ``DEFAULT_IMAGE_SIZE`` where the family takes any."""
    return checkpoint.family.image_size(checkpoint.config) or DEFAULT_IMAGE_SIZE


def open_model(model: str | Checkpoint, revision: str | None, weights: bool) -> Checkpoint:
    """Open a checkpoint, unless it is open already.

    Raises:
        MachineError: The packages that exporting needs are missing.
        CheckpointError: No such checkpoint or family.
    """
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


def _plan_name(plan: str, size: tuple[int, int], first: tuple[int, int]) -> str:
    """Name of ``plan`` for images of ``size`` in a bundle whose first size is ``first``."""
    return plan if size == first else f"{plan}@{size[0]}x{size[1]}"
