"""Plans for a checkpoint: one, or all that an export writes.

Choices come by name, as Python's callers and old habits give them, and become a request in parts.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from luvc_export.core import tasks
from luvc_export.core.named_plans import DEFAULT_PLAN, NAMED, SOLVED_AS
from luvc_export.core.options import keywords_of, tagged
from luvc_export.core.plan import Method, Plan, Sharing
from luvc_export.core.plan.names import shared_name, sized_name
from luvc_export.core.plan.plan_set import PlanSet, Variant, check_shares, with_buckets
from luvc_export.core.plan.request import EncoderRequest, LlmRequest, PlanRequest
from luvc_export.core.planning import solve
from luvc_export.errors import MachineError, UsageError

if TYPE_CHECKING:
    from luvc_export.export.checkpoint import Checkpoint

ImageSize = tuple[int, int]
#: The name of a plan or schedule, one budget per LLM layer, or a plan that is taken as it is.
PlanSource = str | Sequence[int] | Plan


def make_plan(
    model: str | Checkpoint,
    schedule: str | Sequence[int] = DEFAULT_PLAN,
    *,
    image_size: tuple[int, int] | None = None,
    request: PlanRequest | None = None,
    revision: str | None = None,
    task: str | None = None,
    **choices: Any,
) -> Plan:
    """Make a plan for a checkpoint; only its config is read.

    Args:
        model: Folder or hub id, or an opened checkpoint.
        schedule: A named plan (``core.named_plans``), ``none``, a schedule (``even``, ``thirds``, ``linear``,
            ``cosine``, ``striped``), or one budget per layer.
        image_size: Height and width in pixels, multiples of the family's unit; None for the family's own size.
        request: What is asked of the plan's parts; None for what is favoured.
        revision: Hub revision.
        task: What a bundle is for (``core.tasks``); None for what the checkpoint's folder is made for. Where a vector
            or a score is the last token's row, a named plan lets visual tokens into the last layer, as keys and values.
        **choices: Fields of the request's parts by name: ``merge_keep``, ``merge_at``, ``merge_schedule``,
            ``encoder_prune``, ``merge_mode``, ``positions``, ``windows``, ``size_bias`` (``EncoderRequest``);
            ``speedup``, ``kv_mib``, ``text``, ``last_layer``, ``kv_only``, ``turns``, ``stripes``, ``reducer``,
            ``axis``, ``spectrum`` (``LlmRequest``); ``joint_images`` and ``joint_tiles`` (see ``images_of_video`` and
            ``images_of_tiles``), ``quota`` (``Sharing``); ``score``; ``topk_limit``. Every other name is a setting of
            the score, such as ``rho``. ``none`` heeds no ``quota``.

    Raises:
        PlanError: The plan cannot be made; lists every problem.
        CheckpointError: No such checkpoint or family.
    """
    from luvc_export.export.compression import scores

    checkpoint = open_model(model, revision, weights=False)
    family, config = checkpoint.family, checkpoint.config
    unit = family.unit_pixels(config)
    size = image_size or default_image_size(checkpoint)
    grid = (max(1, size[0] // unit), max(1, size[1] // unit))
    asked = request_of(schedule, choices, request)
    named = isinstance(schedule, str) and schedule in NAMED
    if named and asked.llm.last_layer is None and _reads_last_row(checkpoint, size, task):
        asked = replace(asked, llm=replace(asked.llm, last_layer="kv_only"))
    encoder, video = family.encoder_shape(config), family.video(config)
    if asked.sharing.kind == "clip" and video is not None and video.pooled is not None:
        pooled = solve(asked, video.pooled, family.decoder_shape(config), replace(encoder, blocks=0))
        plan = scores.described(replace(pooled, encoder=replace(pooled.encoder, pooled_from=grid)))
    else:
        plan = scores.described(solve(asked, grid, family.decoder_shape(config), encoder))
    check_scorer(plan, family.decoder_shape(config).hidden)
    check_grid(checkpoint, plan, size)
    return plan


def _reads_last_row(checkpoint: Checkpoint, size: ImageSize, task: str | None) -> bool:
    """Whether nothing is decoded, and what is read is the row of the last token."""
    from luvc_export.export.options import Options
    from luvc_export.export.reading.sentence_transformers import embedding_of, task_of

    meant = task_of(checkpoint, task)
    return not tasks.find(meant).decodes and embedding_of(checkpoint, Options(size, task=meant)).pooling == "last"


def check_grid(checkpoint: Checkpoint, plan: Plan, size: tuple[int, int]) -> None:
    """Check that the model takes images of ``size``, height and width in pixels, and that ``plan`` is for them.

    Raises:
        UsageError: A side is no multiple of the unit, or the model takes another size only.
        PlanError: The plan is for another size.
    """
    from luvc_export.export.options import Options, check_size

    video = plan.sharing.kind == "clip"
    options = Options(size, text_capacity=1, video=video, tiles=(plan.sharing.cut,))
    check_size(checkpoint, {plan.schedule: plan}, options)


def check_scorer(plan: Plan, hidden: int) -> None:
    """Check that the scorer which a plan names is at hand, and for this model and these prunes.

    Raises:
        PlanError: It is not.
    """
    if dict(plan.llm.method.settings).get("scorer"):
        from luvc_export.export.compression.scorer_file import known, scorer_of

        known(scorer_of(plan)).check(plan, hidden)


def make_plans(
    model: str | Checkpoint,
    sources: Sequence[str] | Mapping[str, PlanSource] = (DEFAULT_PLAN,),
    *,
    image_size: ImageSize | Sequence[ImageSize] | None = None,
    joint_frames: int | None = None,
    joint_tiles: tuple[int, int] | None = None,
    unit_buckets: Sequence[int] = (),
    request: PlanRequest | None = None,
    revision: str | None = None,
    **choices: Any,
) -> PlanSet:
    """Make every plan of a bundle, by the names ``export_bundle`` takes; only the checkpoint's config is read.

    A plan has its source's name; for an image size other than the first it is ``NAME@HxW``, and with ``joint_frames``
    there is ``NAME@video`` beside it, with ``joint_tiles`` ``NAME@tiles``. ``none`` prunes nothing, so what shapes
    budgets does not touch it.

    Args:
        model: Folder or hub id, or an opened checkpoint.
        sources: Names of plans; or by name, names, budgets or plans. The first becomes the bundle's default.
        image_size: Height and width in pixels, one or several; None for the family's own size.
        joint_frames: Also make plans whose budgets so many frames of a video share.
        joint_tiles: Also make plans whose budgets so many rows and columns of tiles of a picture share.
        unit_buckets: Percentages, ascending: beside each plan for pictures also ``NAME@50`` and so on, whose graphs
            compute that share of the units, named by the host; 100 is the plan itself. Nothing merges then unless
            ``merge_keep`` says so, which is refused.
        request: See ``make_plan``; its quota is, with ``joint_frames`` or ``joint_tiles``, that of the plans whose
            budgets are shared.
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
    asked = request or PlanRequest()
    if unit_buckets and choices.get("merge_keep", asked.encoder.merge_keep) is None:
        choices["merge_keep"] = 1.0
    quota = choices.pop("quota", asked.sharing.quota)
    checkpoint = open_model(model, revision, weights=False)
    video = checkpoint.family.video(checkpoint.config)
    own_frames = video is not None and video.pooled is not None  # no plan for pictures takes them
    named = sources if isinstance(sources, Mapping) else {name: name for name in sources}
    check_shared(named, joint_frames, joint_tiles)
    sizes = as_sizes(image_size) or [default_image_size(checkpoint)]
    one = joint_frames is None and joint_tiles is None
    shared = [replace(asked.sharing, quota=quota if one else "none")]
    if joint_frames is not None:
        shared.append(Sharing(images_of_video(checkpoint, joint_frames), None, quota))
    if joint_tiles is not None:
        shared.append(Sharing(images_of_tiles(checkpoint, joint_tiles), joint_tiles, quota))
    plans, variants = dict[str, Plan](), dict[str, Variant]()
    for sharing in shared:
        for name, source in named.items():
            if source == "none" and sharing is not shared[0] and not (own_frames and sharing.kind == "clip"):
                continue
            own, options = replace(asked, sharing=sharing), choices
            if source == "none":
                own = replace(own, llm=LlmRequest(text=own.llm.text))
                options = {name: value for name, value in choices.items() if name not in tagged(LlmRequest, "budgets")}
            for size in sizes:
                beside = name if sharing is shared[0] else shared_name(name, sharing.kind)
                beside = beside if size == sizes[0] else sized_name(beside, size)
                if beside != name:
                    variants[beside] = Variant(name, size)
                plans[beside] = (
                    source
                    if isinstance(source, Plan)
                    else make_plan(checkpoint, source, image_size=size, request=own, **options)
                )
    together = PlanSet(plans, variants)
    return with_buckets(together, unit_buckets) if unit_buckets else together


def check_shared(
    sources: Mapping[str, PlanSource], joint_frames: int | None, joint_tiles: tuple[int, int] | None
) -> None:
    """Refuse fixed budgets where others are to be shared, by frames or by tiles.

    Raises:
        UsageError: A plan of ``sources`` is no schedule's name.
    """
    fixed = [name for name, source in sources.items() if not isinstance(source, str)]
    joint = {"--joint-frames": joint_frames, "--joint-tiles": joint_tiles}
    flags = [flag for flag, value in joint.items() if value is not None]
    if fixed and flags:
        raise UsageError(
            "fixed budgets are for one image or for those that share them",
            where=flags[0],
            got=f"--plan {fixed[0]}",
            expected="a schedule's name; or a plan file that says sharing.images, with --video or --tiles",
        )


def images_of_video(checkpoint: Checkpoint, frames: int) -> int:
    """Images that a video of ``frames`` frames becomes: ``Sharing.images``.

    Raises:
        UsageError: The family takes no video, or ``frames`` do not fill its images.
    """
    video = checkpoint.family.video(checkpoint.config)
    if video is None or frames < 1 or frames % video.frames:
        raise UsageError(
            "so many frames make no video for this model",
            where="joint_frames",
            got=frames,
            expected="a family that takes videos" if video is None else f"{video.frames} or a multiple of it",
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
            "this family cuts no picture into these tiles, so they cannot share a budget",
            where="--joint-tiles",
            got=f"{grid[0]}x{grid[1]}",
            expected="rows and columns of at least two tiles that this family makes of a picture",
        )
    return cuts[-1].images


def as_sizes(image_size: ImageSize | Sequence[ImageSize] | None) -> list[ImageSize]:
    """Image sizes (height, width), however many were given."""
    sizes = list(image_size or ())
    return [(sizes[0], sizes[1])] if sizes and isinstance(sizes[0], int) else sizes  # type: ignore[list-item, return-value]


def default_image_size(checkpoint: Checkpoint) -> ImageSize:
    """Height and width a checkpoint was made for, or what the family says where it takes any."""
    from luvc_export.demo import IMAGE_SIZE, NAMES

    if checkpoint.folder.resolve() in [folder.resolve() for folder in NAMES.values()]:
        return IMAGE_SIZE
    return checkpoint.family.usual_size(checkpoint.config)


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


def request_of(
    schedule: str | Sequence[int] | None = None,
    choices: Mapping[str, Any] | None = None,
    request: PlanRequest | None = None,
) -> PlanRequest:
    """The request that ``schedule`` and ``choices`` make of ``request``.

    Args:
        schedule: See ``LlmRequest``; None for that of ``request``.
        choices: Fields of the request's parts by name (``core.options.keywords_of``), ``score``, ``topk_limit``; every
            other name is a setting of the score.
        request: What holds where nothing else is said.

    Raises:
        PlanError: There is no such score, or it has not these settings.
    """
    base, named = request or PlanRequest(), dict(choices or {})
    score = named.pop("score", None)
    for name in ("merge_at", "kv_only"):
        if named.get(name) is not None:
            named[name] = tuple(named[name])
    own = {"topk_limit": named.pop("topk_limit")} if "topk_limit" in named else {}
    parts = [
        {field: named.pop(name) for name, field in keywords_of(part).items() if name in named}
        for part in (LlmRequest, EncoderRequest, Sharing)
    ]
    llm = replace(base.llm, schedule=base.llm.schedule if schedule is None else schedule, **parts[0])
    return replace(
        base,
        llm=replace(llm, method=_method(score, named, llm)),
        encoder=replace(base.encoder, **parts[1]),
        sharing=replace(base.sharing, **parts[2]),
        **own,
    )


def _method(score: str | None, settings: Mapping[str, Any], llm: LlmRequest) -> Method:
    """The method asked for, else that of the named plan, else the default, with ``settings``; texts are read."""
    from luvc_export.export.compression import scores

    named = SOLVED_AS if llm.speedup is not None or llm.kv_mib is not None else llm.schedule or DEFAULT_PLAN
    recipe = NAMED.get(named) if isinstance(named, str) else None
    base = llm.method if llm.method.name else recipe.request.llm.method if recipe else Method()
    if score is not None and score != base.name:
        base = Method(score)
    name = base.name or scores.DEFAULT
    return scores.method(name, **{**dict(base.settings), **scores.parsed(name, settings)})
