"""Per-layer budgets: schedules, and the FLOP and KV-byte model that ``--speedup`` and ``--kv-mib`` solve with.

The FLOP model counts a multiply-add as 2, every projection, and attention as the full rectangle a masked kernel
computes. It gives 2.20x for 36 layers of Qwen2.5-VL-3B at 1,024 visual and 64 text tokens with merging to 75 % and
``thirds``, 1.88x at 256 text tokens.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Sequence
from fractions import Fraction

from luvc_export.core.plan import LastLayer
from luvc_export.core.plan.request import Stages
from luvc_export.core.shapes import DecoderShape, in_codes
from luvc_export.errors import PlanError, did_you_mean

#: Stages of a share of the tokens in the first one, and by how much later ones fade.
Fading = Callable[[float, float], Stages]

#: Share of units that merging keeps with the schedules below unless told.
MERGE_KEEP = 0.75


def staged(layers: int, tokens: int, stages: Stages, last_layer: LastLayer = "drop") -> tuple[int, ...]:
    """Budgets by stages: from which share of the depth on, which share of ``tokens``; none at the last with ``drop``.

    A stage that begins after the start begins after layer 0 at the earliest.
    """
    begins = [(max(round(depth * layers), int(depth > 0)), share) for depth, share in stages]
    keep = [round(tokens * [share for begin, share in begins if begin <= layer][-1]) for layer in range(layers)]
    return (*keep[:-1], 0 if last_layer == "drop" else keep[-1])


def thirds(layers: int, tokens: int) -> tuple[int, ...]:
    """All, a half from L/3, a quarter from 2L/3, none at the last layer (reconstruction; thirds as in PPE's code)."""
    return staged(layers, tokens, by_thirds(1.0, 0.5))


def by_thirds(first: float, fade: float) -> Stages:
    """``first`` of the tokens in the first third of the depth, and by ``fade`` fewer in each later one."""
    return tuple((Fraction(third, 3), first * fade**third) for third in range(3))


def after_first(first: float, fade: float) -> Stages:
    """``first`` of the tokens in the first eighth of the depth, ``fade`` of them after it (``named_plans``)."""
    return (Fraction(0), first), (Fraction(1, 8), first * fade)


def even(layers: int, tokens: int) -> tuple[int, ...]:
    """As many in every layer as ``thirds`` has on average, none at the last (ours: docs/results/ablation.md)."""
    return (*[round(sum(thirds(layers, tokens)) / max(1, layers - 1))] * (layers - 1), 0)


def linear(layers: int, tokens: int) -> tuple[int, ...]:
    """A straight line from all tokens at layer 0 to none at the last."""
    return (*(round(tokens * (1 - layer / (layers - 1))) for layer in range(layers - 1)), 0)


def cosine(layers: int, tokens: int) -> tuple[int, ...]:
    """Half a cosine from all tokens at layer 0 to none at the last: slow first, fast in the middle."""
    wave = (0.5 + 0.5 * math.cos(math.pi * layer / (layers - 1)) for layer in range(layers - 1))
    return (*(round(tokens * height) for height in wave), 0)


SCHEDULES: dict[str, Callable[[int, int], tuple[int, ...]]] = {
    "even": even,
    "thirds": thirds,
    "linear": linear,
    "cosine": cosine,
}


def schedule(name: str, layers: int, tokens: int, known: Collection[str] = ()) -> tuple[int, ...]:
    """Budgets of a named schedule; ``known`` are names beside them that a user may have meant.

    Raises:
        PlanError: There is no schedule of that name.
    """
    if name not in SCHEDULES:
        raise PlanError("unknown schedule", got=repr(name), expected=did_you_mean(name, [*SCHEDULES, *known]))
    return SCHEDULES[name](layers, tokens)


def prefill_flops(
    shape: DecoderShape,
    keep: Sequence[int],
    text: int,
    last_layer: LastLayer = "full",
    kv_only: Collection[int] = (),
    sampled: int | Fraction = 0,
    images: int = 1,
) -> tuple[int, ...]:
    """FLOPs of each LLM layer in prefill with ``keep[l]`` visual and ``text`` text tokens (lm_head left out).

    In layers ``kv_only``, and in the last one with that ``last_layer``, visual tokens cost their keys and values, and
    the attention to them of the text and, but for the last one, of ``sampled`` visual tokens of each of ``images``, or
    of that share of them, which the others are compared with. Layers without keys cost their products. Layers that
    share a cache compute one row, the last one, which looks at what the layer keeps whose cache it is.
    """
    working = [count + text for count in keep]
    compared = [0] * len(keep)
    for layer in kv_only:
        some = math.ceil(keep[layer] * sampled) if isinstance(sampled, Fraction) else min(images * sampled, keep[layer])
        working[layer] = some + text
        if isinstance(sampled, Fraction):
            compared[layer] = 4 * keep[layer] * some * shape.hidden // max(1, images)
    if last_layer == "kv_only":
        working[-1] = text
    each = range(len(keep))
    return tuple(_layer_flops(shape, layer, keep, text, working[layer]) + compared[layer] for layer in each)


def _layer_flops(shape: DecoderShape, number: int, keep: Sequence[int], text: int, working: int) -> int:
    layer = shape.layer(number)
    if not layer.kv_heads:
        return 2 * (keep[number] + text) * (layer.mixer + 3 * shape.hidden * (layer.intermediate + shape.gate))
    consumes = layer.reads != number
    keys = keep[layer.reads] + text
    queries = 1 if consumes else working
    q_and_o = 2 * shape.hidden * shape.heads * layer.head_dim
    k_and_v = 0 if consumes else 2 * shape.hidden * layer.kv_heads * layer.head_dim
    mlp = 3 * shape.hidden * layer.intermediate
    gate = 3 * shape.hidden * shape.gate
    scores = 2 * queries * keys * shape.heads * layer.head_dim
    return 2 * (queries * (q_and_o + mlp + gate) + keys * k_and_v + scores)


def kv_bytes(
    shape: DecoderShape, keep: Sequence[int], text: int, element_bytes: int = 2, codes: bool = False
) -> tuple[int, ...]:
    """Bytes of keys, values and states of each layer that holds ``keep[l]`` visual and ``text`` text tokens.

    0 where a layer reads another one's cache; no more rows than stand where they leave a window. ``codes``: keys and
    values are codes, with scales of 16 bits.
    """
    total, most = [0] * len(keep), shape.most_rows
    for state in in_codes(shape.kept, "float16") if codes else shape.kept:
        if state.layer < len(keep):
            rows = keep[state.layer] + text
            total[state.layer] += state.bytes(min(rows, most.get(state.layer, rows)), element_bytes)
    return tuple(total)


def solve_speedup(
    shape: DecoderShape,
    full: int,
    tokens: int,
    text: int,
    speedup: float,
    kv_only: Collection[int] = (),
    last_layer: LastLayer = "drop",
    fading: Fading = after_first,
    sampled: int | Fraction = 0,
) -> tuple[int, ...]:
    """Mildest budgets of ``tokens`` whose prefill FLOPs are ``full`` unpruned tokens' divided by ``speedup``.

    Layers ``kv_only`` cost what they cost in ``prefill_flops``, with ``sampled`` tokens or that share; ``fading`` says
    where along the depth tokens go.

    Raises:
        PlanError: Not even dropping every visual token reaches it, or it is no positive number.
    """
    _check_positive("speedup", speedup)
    whole = sum(prefill_flops(shape, [full] * shape.layers, text))

    def best(flops: float) -> tuple[str, str]:
        factor = _short(whole / flops * (1 + 1e-12), math.floor)  # 200 asked for is 200
        return f"{factor:g}x", f"--speedup {factor:g}"

    def spent(keep: tuple[int, ...]) -> int:
        return sum(prefill_flops(shape, keep, text, last_layer, kv_only, sampled))

    def at(first: float, fade: float) -> tuple[int, ...]:
        return staged(shape.layers, tokens, fading(first, fade), last_layer)

    return _solve(at, "speedup", whole / speedup, spent, best)


def solve_kv(
    shape: DecoderShape,
    tokens: int,
    text: int,
    mebibytes: float,
    element_bytes: int = 2,
    last_layer: LastLayer = "drop",
) -> tuple[int, ...]:
    """Mildest budgets of ``tokens`` whose KV cache with ``text`` text tokens fits ``mebibytes`` MiB.

    Raises:
        PlanError: The text alone needs more, or it is no positive number.
    """
    _check_positive("kv-mib", mebibytes)

    def best(count: float) -> tuple[str, str]:
        least = _short(count / 2**20, math.ceil)
        return f"{least:g} MiB", f"--kv-mib {least:g}"

    def at(first: float, fade: float) -> tuple[int, ...]:
        return staged(shape.layers, tokens, after_first(first, fade), last_layer)

    goal = mebibytes * 2**20
    return _solve(at, "kv-mib", goal, lambda keep: sum(kv_bytes(shape, keep, text, element_bytes)), best)


def _short(value: float, rounded: Callable[[float], int]) -> float:
    """``value`` in three digits, rounded to the side on which it can be met."""
    step = 2 - math.floor(math.log10(value))
    return float(rounded(value * 10**step) / 10**step)


def _check_positive(goal: str, value: float) -> None:
    if not (value > 0 and math.isfinite(value)):
        raise PlanError(f"--{goal} is no goal", got=value, expected="a positive number", fix=f"--{goal} 2")


def _solve(
    budgets: Callable[[float, float], tuple[int, ...]],
    goal: str,
    target: float,
    cost: Callable[[tuple[int, ...]], int],
    best: Callable[[float], tuple[str, str]],
) -> tuple[int, ...]:
    """Bisect one severity in [0, 2]: to 1 the later stages fade, to 2 the first one too."""

    def at(severity: float) -> tuple[int, ...]:
        return budgets(min(1.0, 2 - severity), max(0.0, 1 - severity))

    mild, severe = 0.0, 2.0
    if cost(at(severe)) > target:
        reached, option = best(cost(at(severe)))
        raise PlanError(
            f"--{goal} cannot be met",
            got=f"{reached} at best, with every visual token dropped: the text is left",
            expected=best(target)[0],
            fix=f"{option}, or count fewer text tokens",
        )
    if cost(at(mild)) <= target:
        return at(mild)
    for _ in range(50):
        middle = (mild + severe) / 2
        mild, severe = (mild, middle) if cost(at(middle)) <= target else (middle, severe)
    return at(severe)


def rectangles(grid: tuple[int, int], keep: Sequence[int]) -> tuple[int, ...]:
    """Budgets next to ``keep`` that a grid can merge to step by step, both sides shrinking alike; 0 stays 0."""
    sizes = []
    for count in keep:
        if 0 < count < grid[0] * grid[1]:
            rows, columns = merge_removals(grid, count / (grid[0] * grid[1]))
            grid = (grid[0] - rows, grid[1] - columns)
        sizes.append(grid[0] * grid[1] if count else 0)
    return tuple(sizes)


def merge_removals(grid: tuple[int, int], keep: float) -> tuple[int, int]:
    """Rows and columns to remove so that about ``keep`` (0 < keep <= 1) of the grid's units stay, axes balanced.

    Raises:
        PlanError: ``keep`` is no fraction in (0, 1].
    """
    if not 0 < keep <= 1:
        raise PlanError("the share of units that merging keeps must be a fraction", got=keep, expected="in (0, 1]")
    rows, columns = grid
    side = math.sqrt(keep)

    def miss(size: tuple[int, int]) -> tuple[float, float]:
        return abs(size[0] * size[1] / (rows * columns) - keep), abs(size[0] / rows - size[1] / columns)

    near = [
        (r, c)
        for r in range(max(1, math.floor(rows * side)), min(rows, math.ceil(rows * side)) + 1)
        for c in range(max(1, math.floor(columns * side)), min(columns, math.ceil(columns * side)) + 1)
    ]
    best = min(near, key=miss)
    return rows - best[0], columns - best[1]
