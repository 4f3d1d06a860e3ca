"""From a few user-level choices to a plan: image size, merges, schedule."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from fractions import Fraction

from luvc_export.core.budgets import (
    MERGE_KEEP,
    merge_removals,
    rectangles,
    schedule,
    solve_kv,
    solve_speedup,
    staged,
)
from luvc_export.core.named_plans import DEFAULT_PLAN, FORMER, NAMED, QUANTISED, SOLVED_AS
from luvc_export.core.options import choice
from luvc_export.core.plan import STRIPED, EncoderPlan, EncoderPrune, LlmPlan, MergePass, Plan, Sharing, Stripes
from luvc_export.core.plan.merging import EARLIEST, TimeMerge, at_depth, earliest, window_pass
from luvc_export.core.plan.request import EncoderPruneRequest as EncoderPruneRequest
from luvc_export.core.plan.request import EncoderRequest as EncoderRequest
from luvc_export.core.plan.request import LlmRequest as LlmRequest
from luvc_export.core.plan.request import PlanRequest as PlanRequest
from luvc_export.core.plan.request import TimeRequest as TimeRequest
from luvc_export.core.shapes import DecoderShape, EncoderShape
from luvc_export.errors import PlanError


def solve(request: PlanRequest, grid: tuple[int, int], llm: DecoderShape, encoder: EncoderShape) -> Plan:
    """The plan of ``request`` for a model of these shapes and an image of ``grid`` units.

    Raises:
        PlanError: The choices contradict each other, cannot be met, or do not fit the model.
    """
    goal = _goal(request.llm)
    asked = DEFAULT_PLAN if request.llm.schedule is None else request.llm.schedule
    name = goal or (asked if isinstance(asked, str) else "list")
    if request.llm.stripes is not None and name != STRIPED:
        fix = f"--plan {STRIPED}; beside other plans, a file of it (luvc-export plan ... -o FILE)"
        raise PlanError("this plan has no stripes", where="--stripes", got=f"--plan {name}", fix=fix)
    if name in QUANTISED:
        raise PlanError(
            f"{name} is {QUANTISED[name].recipe} with its encoder in {QUANTISED[name].precision}, which needs pictures",
            where="--plan",
            got=name,
            fix=f"luvc-export export MODEL --plan {name}; its budgets are those of --plan {QUANTISED[name].recipe}",
        )
    turns = request.llm.turns  # as said, not a recipe's
    recipe = NAMED.get(SOLVED_AS if goal else name)
    if recipe is not None:
        request = recipe.under(replace(request, llm=replace(request.llm, schedule=None)))
    images = request.sharing.images
    if name == "none":
        whole = request.encoder.uncompressed(grid)
        keep = unshared((images * whole.units,) * llm.layers, llm)
        keeps_all = request.llm.part(keep, request.llm.last_layer or "full", (), llm.shared)
        return Plan(whole, keeps_all, request.sharing.without_quota(), name, request.topk_limit)
    seen = _encoder_part(request, grid, encoder)
    # lists what is wrong with the encoder before budgets are made of it
    Plan(seen, LlmPlan((0,)), request.sharing.without_quota())
    plan = Plan(seen, _llm_part(request.llm, seen, llm, images, turns), request.sharing, name, request.topk_limit)
    check_model(plan, llm, encoder)
    return plan


def _encoder_part(request: PlanRequest, grid: tuple[int, int], encoder: EncoderShape) -> EncoderPlan:
    wanted, prune = request.encoder, request.encoder.prune
    if wanted.merge_keep is not None:
        share = wanted.merge_keep
    else:
        merging = isinstance(request.llm.schedule, str) or wanted.merge_at or wanted.merge_schedule != "late"
        share = MERGE_KEEP if merging and prune is None and encoder.blocks else 1.0
    if not encoder.blocks and (share != 1 or wanted.merge_at or prune is not None):
        raise PlanError(
            "this encoder is convolutional, or its output is pooled: nothing merges or leaves inside it",
            where="--encoder-keep" if prune is not None else "--merge-keep",
            got=share if prune is None else prune.keep,
            expected="1, or nothing: tokens leave in the LLM",
            fix="leave the options of the encoder out",
        )
    merges = place_merges(grid, share, encoder, wanted.merge_at, wanted.merge_schedule)
    placed = None if prune is None else place_prune(prune, encoder)
    time = place_time(wanted.time, request.sharing, encoder)
    return replace(wanted.uncompressed(grid), merges=merges, prune=placed, time=time)


def _llm_part(
    wanted: LlmRequest, encoder: EncoderPlan, llm: DecoderShape, images: int, turns: int | None = None
) -> LlmPlan:
    """``turns`` is what was said of them, None where nothing was: a recipe's go where no layer has so many tokens."""
    full, tokens = images * encoder.units, images * encoder.tokens
    last, stripes = wanted.last_layer or "drop", wanted.stripes
    if stripes and last != "drop" and stripes.gone not in (1, Stripes().gone):
        raise PlanError(
            "tokens that reach the last layer are not gone before it",
            where="--stripes",
            got=f"gone={stripes.gone}, --last-layer {last}",
            fix="leave gone out, or ask for --last-layer drop",
        )
    frozen = wanted.kv_only or (stripes.carrying(llm.layers, last) if stripes else ())
    if (wanted.stages or stripes) and last == "kv_only" and llm.layers - 1 in llm.keyless:
        last = "drop"  # a recipe means keys and values alone, and there are none
    if wanted.speedup is not None:
        keep = solve_speedup(
            llm,
            full,
            tokens,
            wanted.text,
            wanted.speedup,
            frozen,
            last,
            sampled=Fraction(1, wanted.turns) if wanted.turns else 0,
        )
    elif wanted.kv_mib is not None:
        keep = solve_kv(llm, tokens, wanted.text, wanted.kv_mib, last_layer=last)
    elif stripes is not None:
        keep = stripes.keep(llm.layers, tokens, last)
    elif wanted.stages:
        keep = staged(llm.layers, tokens, wanted.stages, last)
    elif isinstance(wanted.schedule, str):
        keep = schedule(wanted.schedule, llm.layers, tokens, ("none", *NAMED, *QUANTISED))
        if last != "drop" and len(keep) > 1:
            keep = (*keep[:-1], keep[-2])
    else:
        keep = tuple(wanted.schedule or ())
    if wanted.reducer == "merge":
        keep = rectangles(encoder.merged_grid, keep)
    if isinstance(wanted.schedule, str) or wanted.schedule is None:
        keep = unshared(keep, llm)
    if not wanted.kv_only:
        cached = [layer for layer in frozen if layer < min(llm.cached, len(keep)) and keep[layer] > (wanted.turns or 0)]
        frozen = tuple(layer for layer in cached if layer not in llm.keyless)
    if turns == 1 or (turns and not frozen):
        raise PlanError(
            "tokens take turns in layers that carry keys and values alone and have more tokens than turns",
            where="--turns",
            got=turns,
            expected="0, or 2 or more, and such layers",
            fix="--turns 2 with --plan safe, lean or striped, or with --kv-only LAYERS",
        )
    if not frozen and stripes:  # a recipe's layers, of which so few have none
        wanted = replace(wanted, turns=0)
    first = next((k for k in keep if k < tokens), 0)
    if wanted.stages and not (keep[0] == tokens and first):
        wanted = replace(wanted, apart=False)  # a recipe's shares leave nothing to drop after the first layer
    return wanted.part(keep, last, frozen, llm.shared)


def unshared(keep: tuple[int, ...], llm: DecoderShape) -> tuple[int, ...]:
    """Budgets without those of layers that read other layers' caches: they compute no visual token."""
    return (*keep[: llm.cached], *[0] * llm.shared)


#: What scores that choose in rounds take where nothing is said: an exported plan writes it out, a recipe need not.
_SETTINGS = {"rounds": "growing", "steps": 0}


def recipe_of(plan: Plan, llm: DecoderShape) -> str | None:
    """The named plan that ``plan`` is for an LLM of this shape; None where it is none, or was made with other settings.

    A plan that was made when its name was another recipe's is that recipe (``named_plans.FORMER``). The encoder's
    depth is not known here: of its part, the share that stays and whether it merges are compared.
    """
    names = (plan.schedule, FORMER.get(plan.schedule))
    return next((name for name in names if name in NAMED and _made_by(NAMED[name].request, plan, llm)), None)


def _made_by(asked: PlanRequest, plan: Plan, llm: DecoderShape) -> bool:
    """Whether a recipe that asks for this gives the plan."""
    seen = plan.encoder
    part = _llm_part(asked.llm, seen, llm, plan.sharing.images)
    same = replace(plan.llm, method=part.method, aggregate=False, shared=part.shared) == part
    same &= (part.method.name, _SETTINGS | dict(part.method.settings)) == (
        plan.llm.method.name,
        _SETTINGS | dict(plan.llm.method.settings),
    )
    wanted, leaving = asked.encoder.prune, seen.prune
    same &= (wanted and (wanted.keep, wanted.restore)) == (leaving and (leaving.keep, leaving.restore))
    same &= seen.time is None
    same &= all(getattr(asked.encoder, name) == getattr(seen, name) for name in ("positions", "size_bias"))
    same &= plan.sharing.quota == (asked.sharing.quota if plan.sharing.kind == "clip" else plan.sharing.quota)
    merges = isinstance(asked.llm.schedule, str) or asked.encoder.merge_keep is not None
    return bool(same) and bool(seen.merges) == merges


def _goal(request: LlmRequest) -> str | None:
    """Name of the plan that is solved for a goal; None where there is no goal."""
    if request.speedup is not None and request.kv_mib is not None:
        raise PlanError("--speedup and --kv-mib both choose the budgets", fix="give one of them")
    for goal, value in (("speedup", request.speedup), ("kv-mib", request.kv_mib)):
        if value is None:
            continue
        if request.schedule not in (None, DEFAULT_PLAN):
            got = request.schedule if isinstance(request.schedule, str) else "a list of budgets"
            fix = f"leave out --plan, or --{goal}"
            raise PlanError(f"--{goal} solves the budgets itself", where="--plan", got=got, fix=fix)
        return f"{goal} {value:g}"
    return None


def place_prune(wanted: EncoderPruneRequest, encoder: EncoderShape) -> EncoderPrune:
    """The prune asked for; where its share of the depth is done unless it names a block (docs/results/encoder.md)."""
    block = at_depth(wanted.depth, encoder.blocks) if wanted.block is None else wanted.block
    return EncoderPrune(block, wanted.keep, restore=wanted.restore)


def place_time(wanted: TimeRequest | None, sharing: Sharing, encoder: EncoderShape) -> TimeMerge | None:
    """Where frames of a clip merge in the encoder, and how many stay; None for plans of pictures and of tiles.

    Raises:
        PlanError: The share is none, or leaves all images of a clip.
    """
    if wanted is None:
        return None
    if not 0 < wanted.keep < 1:
        expected = "more than 0 and less than 1"
        raise PlanError("a share of frames goes on", where="--merge-frames", got=wanted.keep, expected=expected)
    if sharing.kind != "clip":
        return None
    block = at_depth(Fraction(1, 3), encoder.blocks) if wanted.block is None else wanted.block
    keep = max(1, round(wanted.keep * sharing.images))
    if keep == sharing.images:
        got = f"{wanted.keep:g} of {sharing.images} images is all of them"
        raise PlanError("a share of frames goes on", where="--merge-frames", got=got, expected="a smaller share")
    return TimeMerge(block, sharing.images, keep)


def _late(encoder: EncoderShape) -> tuple[int, ...]:
    """The full-attention blocks of the later half: costs least in accuracy, saves the LLM's time alone.

    Where none is there, the last block.
    """
    return tuple(b for b in encoder.full_attention if 2 * (b + 1) >= encoder.blocks) or (encoder.blocks - 1,)


def _early(encoder: EncoderShape) -> tuple[int, ...]:
    """One block, where a fifth of the depth is done."""
    return (earliest(encoder.blocks),)


def _gradual(encoder: EncoderShape) -> tuple[int, ...]:
    """Where one, two and three fifths of the depth are done."""
    return tuple(dict.fromkeys(at_depth(share, encoder.blocks) for share in (EARLIEST, 0.4, 0.6)))


def _every(encoder: EncoderShape) -> tuple[int, ...]:
    """All of them."""
    return tuple(range(encoder.blocks))


#: Blocks to merge after, by name; ``windows`` merges inside windows where ``early`` does along whole axes.
MERGE_SCHEDULES: dict[str, Callable[[EncoderShape], tuple[int, ...]]] = {
    "late": _late,
    "gradual": _gradual,
    "early": _early,
    "every": _every,
    "windows": _early,
}
#: Side of windows that towers without any merge in, in units.
_WINDOW = 4


def place_merges(
    grid: tuple[int, int],
    keep: float,
    encoder: EncoderShape,
    blocks: tuple[int, ...] | None = None,
    schedule: str = "late",
) -> tuple[MergePass, ...]:
    """Passes that leave about ``keep`` of the units, spread over blocks, later ones taking the remainder.

    The default schedule merges late: earlier merging costs more accuracy (docs/results/encoder.md).

    Raises:
        PlanError: There is no such schedule, or ``keep`` is no share.
    """
    choice("--merge-schedule", schedule, MERGE_SCHEDULES, "unknown schedule of merges", PlanError)
    if not encoder.blocks and keep == 1:
        return ()
    where = blocks or MERGE_SCHEDULES[schedule](encoder)
    if schedule == "windows":
        merge_removals(grid, keep)  # refuses what is no share
        inside = window_pass(where[0], max(keep, 0.25), encoder.window or _WINDOW)
        return (inside,) if inside.rows or inside.columns else ()
    rows, columns = grid
    left = list(merge_removals(grid, keep))
    passes = []
    for index, block in enumerate(where):
        stops = len(where) - index
        step = [min(size // 2, want // stops) for size, want in zip((rows, columns), left, strict=True)]
        if any(step):
            passes.append(MergePass(block, *step))
        rows, columns, left = rows - step[0], columns - step[1], [left[0] - step[0], left[1] - step[1]]
    while any(left):
        step = [min(rows // 2, left[0]), min(columns // 2, left[1])]
        passes.append(MergePass(where[-1], *step))
        rows, columns, left = rows - step[0], columns - step[1], [left[0] - step[0], left[1] - step[1]]
    return tuple(passes)


def check_model(plan: Plan, llm: DecoderShape, encoder: EncoderShape) -> None:
    """Check a plan against a model.

    Raises:
        PlanError: Another number of layers, a merge or prune after a block the encoder has not, or inside windows that
            are not the encoder's.
    """
    problems = []
    if plan.layers != llm.layers:
        problems.append(f"keep: got {plan.layers} budgets, the model has {llm.layers} layers")
    elif plan.llm.shared != llm.shared:
        problems.append(f"llm.shared: got {plan.llm.shared}; the model's last {llm.shared} layers read earlier caches")
    for layer in sorted(plan.llm.frozen & {*llm.keyless}):
        where = "llm.last_layer: 'kv_only'" if layer == plan.layers - 1 else "llm.kv_only"
        problems.append(f"{where}: layer {layer} has no keys and values that visual tokens could leave alone")
    mixed = [layer for layer in llm.keyless if plan.apart is not None and layer < plan.apart]
    problems += [f"llm.apart: layer {layer} keeps a state that all tokens go through" for layer in mixed]
    for index, step in enumerate(plan.encoder.merges):
        if not 0 <= step.block < encoder.blocks:
            problems.append(f"merges[{index}]: after block {step.block}; the encoder's are 0 to {encoder.blocks - 1}")
        if step.window and encoder.window and step.window != encoder.window:
            problems.append(
                f"merges[{index}]: inside windows of {step.window} units a side; the encoder's have {encoder.window}"
            )
    time = plan.encoder.time
    if time is not None and time.block >= encoder.blocks:
        problems.append(f"encoder.time: after block {time.block}; the encoder's are 0 to {encoder.blocks - 1}")
    prune = plan.encoder.prune
    if not encoder.blocks and (plan.encoder.merges or prune is not None or plan.encoder.takes_units):
        problems = ["encoder: this model's is convolutional: nothing merges, leaves or is left out inside it"]
        prune = None
    if prune is not None and prune.block >= encoder.blocks:
        problems.append(f"encoder.prune: after block {prune.block}; the encoder's are 0 to {encoder.blocks - 1}")
    if prune is not None and prune.block + prune.stabilise >= encoder.blocks > prune.block:
        left = encoder.blocks - 1 - prune.block
        problems.append(f"encoder.prune.stabilise: {prune.stabilise} blocks after block {prune.block}; {left} are left")
    if prune is not None and prune.window not in (0, encoder.window):
        expected = f"0 or the encoder's {encoder.window}" if encoder.window else "0: the encoder has none"
        problems.append(f"encoder.prune.window: got {prune.window}, expected {expected}")
    if problems:
        raise PlanError("the plan does not fit the model:\n" + "\n".join(f"  - {problem}" for problem in problems))
