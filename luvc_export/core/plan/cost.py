"""What a plan costs and saves, as data: FLOPs, KV bytes and visual tokens per layer, against the uncompressed model.

Budgets are fixed, so a padded picture costs as much as any. What it gets for that is ``padded``: tokens that hold
picture, and by how many a budget is too large for them.

Of the encoder, a multiply-add counts as 2; every projection, and attention as the rectangle that is computed. Patch
embedding and patch merger are left out.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from fractions import Fraction
from itertools import groupby
from typing import Any

from luvc_export.core.budgets import kv_bytes, prefill_flops
from luvc_export.core.plan import EncoderPlan, LlmPlan, Plan
from luvc_export.core.plan.merging import Axis, equal_parts, whole
from luvc_export.core.shapes import DecoderShape, EncoderShape


@dataclass(frozen=True)
class Stage:
    """Layers ``first`` to ``last`` (inclusive) that all see ``tokens`` visual tokens.

    ``kv_only``: and compute nothing but keys and values for them, or for all but some (``LlmPlan.kv_only``, ``turns``).
    """

    first: int
    last: int
    tokens: int
    flops: int
    kv_bytes: int
    kv_only: bool = False


@dataclass(frozen=True)
class Padded:
    """What a plan does to a picture that is padded to its grid.

    Attributes:
        units: Units that show some of the picture.
        tokens: Visual tokens of the encoder that hold some of it.
        padding: Visual tokens of each layer that can hold nothing but padding, whatever the score.
        flops_share: Share of the LLM's prefill that those cost.
    """

    units: int
    tokens: int
    padding: tuple[int, ...]
    flops_share: float


def padded(plan: Plan, shape: DecoderShape, aspect: float, text: int = 64) -> Padded:
    """What ``plan`` does to a picture ``aspect`` times as wide as high, on units that are square.

    Units of padding merge first and are kept last (``EncoderPlan.padding``), so the counts follow from the grid alone.
    """
    rows, columns = plan.grid
    scale = min(columns / aspect, rows)
    lines = [_line(rows, scale), _line(columns, scale * aspect)]
    units = sum(lines[0]) * sum(lines[1])
    for merge in plan.encoder.merge_passes:
        counts = (merge.step.rows, merge.step.columns)
        lines = [_pass(*axis) for axis in zip(lines, merge.before, counts, strict=True)]
    tokens = sum(lines[0]) * sum(lines[1]) * plan.sharing.images
    padding = tuple(max(0, keep - tokens) for keep in plan.keep)
    useful = [keep - void for keep, void in zip(plan.keep, padding, strict=True)]
    share = 1 - sum(llm_flops(plan.llm, shape, useful, text)) / sum(llm_flops(plan.llm, shape, plan.keep, text))
    return Padded(units * plan.sharing.images, tokens, padding, share)


def llm_flops(plan: LlmPlan, shape: DecoderShape, keep: Sequence[int], text: int, images: int = 1) -> tuple[int, ...]:
    """Prefill FLOPs of each LLM layer where ``keep`` visual tokens of ``images`` enter, computed as ``plan`` says."""
    some = Fraction(1, plan.turns) if plan.turns else plan.sampled
    return prefill_flops(shape, keep, text, plan.last_layer, plan.kv_only, some, images)


def _line(units: int, length: float) -> list[bool]:
    """Which of ``units`` in a row a picture of ``length`` units in the middle reaches into."""
    first = int(max(0.0, (units - length) / 2) + 1e-6)
    return [first <= place < units - first for place in range(units)]


def _pass(line: list[bool], axis: Axis, count: int) -> list[bool]:
    """``_after_merging`` in every line of an axis that merges apart."""
    parts = zip(axis.edges, axis.edges[1:], axis.removed(count), strict=False)
    return [held for begin, end, gone in parts for held in _after_merging(line[begin:end], gone)]


def _after_merging(line: list[bool], removed: int) -> list[bool]:
    """What holds picture after ``removed`` units left, ``oim.assign``'s way; which of the picture's own do is open.

    Odd units of padding beside padding go first, from the left; then odd ones of the picture beside its others; across
    the edge last, where the padding vanishes.
    """
    left = list(line)
    beside = [[line[near] for near in (place - 1, place + 1) if near < len(line)] for place in range(len(line))]
    order = sorted(range(1, len(line), 2), key=lambda place: line[place] if line[place] in beside[place] else 2)
    for place in order[:removed]:
        left[place - 1] |= line[place] not in beside[place]
    return [held for place, held in enumerate(left) if place not in order[:removed]]


@dataclass(frozen=True)
class Cost:
    """Cost of one plan in LLM prefill with ``text`` text tokens and ``images`` images, or joint groups of them.

    ``encoder_flops`` are of the encoder's blocks for one image; None where no encoder was given.
    ``flops_ratio`` and ``kv_ratio`` are the uncompressed model's divided by the plan's; KV elements take 2 bytes, but
    where ``caches`` names what codes they are: 1, and 2 for each head of a value.
    """

    text: int
    images: int
    stages: tuple[Stage, ...]
    flops: int
    flops_ratio: float
    kv_bytes: int
    kv_ratio: float
    encoder_flops: int | None = None
    encoder_ratio: float | None = None
    caches: str | None = None

    def to_json(self) -> dict[str, Any]:
        """Return plain data."""
        return asdict(self)


def cost(
    plan: Plan,
    shape: DecoderShape,
    text: int = 64,
    images: int = 1,
    encoder: EncoderShape | None = None,
    caches: str | None = None,
) -> Cost:
    """Cost of ``plan`` on an LLM of ``shape`` and, where it is given, the blocks of ``encoder``."""
    keep = [images * count for count in plan.keep]
    full = [images * plan.whole_span] * plan.layers
    flops = llm_flops(plan.llm, shape, keep, text, images)
    kv = kv_bytes(shape, keep, text, codes=caches is not None)
    stages, frozen = [], {*plan.llm.kv_only}
    alike = groupby(range(plan.layers), key=lambda layer: (keep[layer], layer in frozen))
    for (tokens, still), members in alike:
        layers = list(members)
        part = slice(layers[0], layers[-1] + 1)
        stages.append(Stage(layers[0], layers[-1], tokens, sum(flops[part]), sum(kv[part]), still))
    return Cost(
        text,
        images,
        tuple(stages),
        sum(flops),
        sum(prefill_flops(shape, full, text)) / sum(flops),
        sum(kv),
        sum(kv_bytes(shape, full, text)) / sum(kv),
        None if encoder is None else sum(encoder_flops(plan.encoder, encoder)),
        None if encoder is None else encoder_ratio(plan.encoder, encoder),
        caches,
    )


def encoder_flops(encoder: EncoderPlan, shape: EncoderShape) -> tuple[int, ...]:
    """FLOPs of each encoder block for one image, with what choosing, reconstructing and restoring units costs.

    Of a convolutional tower one number, of all of it; where units merge along time, an image's share.
    """
    if not shape.blocks:
        return (encoder.units * shape.flops,)
    counts, passes, prune = [], list(encoder.merge_passes), encoder.prune
    axes, kept = whole(encoder.tower_grid), encoder.computed_units if encoder.takes_units else None
    for block in range(shape.blocks):
        full = block in shape.full_attention or not shape.window
        units = axes[0].units * axes[1].units
        pairs = units**2 if full else _pairs(axes, shape.window)
        extra = 0
        if kept is not None and encoder.takes_units:  # windows have gaps, and are attended over whole
            flops = _block(shape, kept, kept, kept**2 if full else pairs)
        elif kept is None or prune is None:
            flops = _block(shape, units, units, pairs)
        elif block <= prune.block + prune.stabilise:
            flops = _block(shape, units, kept, pairs)
            extra = _restore(shape, units, kept)
        else:
            gaps = not full and not prune.window
            inside = kept**2 if full else _pairs(axes, prune.window, prune.count)
            flops = _block(shape, kept, kept, pairs if gaps else inside)
        while passes and passes[0].step.block == block:
            axes = passes.pop(0).after
        if prune is not None and block == prune.block:
            kept = prune.tokens(axes)
            if prune.restore == "all" or prune.stabilise:
                extra += _restore(shape, units, kept)
        if prune is not None and kept is not None and block == shape.blocks - 1 and prune.restore == "all":
            extra += _restore(shape, units, kept)
        if encoder.time is not None and block > encoder.time.block:
            flops = flops * encoder.time.keep // encoder.time.frames
        counts.append(flops + extra)
    return tuple(counts)


def encoder_ratio(encoder: EncoderPlan, shape: EncoderShape) -> float:
    """FLOPs of the encoder's blocks uncompressed, divided by the plan's."""
    plain = EncoderPlan(encoder.grid, pooled_from=encoder.pooled_from)
    return sum(encoder_flops(plain, shape)) / sum(encoder_flops(encoder, shape))


def _block(shape: EncoderShape, read: int, written: int, pairs: int) -> int:
    """A block that makes queries, keys and values of ``read`` units and goes on with ``written``."""
    projection = shape.hidden**2
    mlp = (3 if shape.gated else 2) * shape.hidden * shape.intermediate
    linear = read * 3 * projection + written * (projection + mlp)
    return 2 * shape.unit * linear + 4 * pairs * shape.unit**2 * shape.hidden


def _pairs(axes: tuple[Axis, Axis], window: int, kept: Callable[[int], int] = lambda units: units) -> int:
    """Pairs of units that share a window, ``kept`` of each window's units."""
    return sum(number * kept(units) ** 2 for units, number in equal_parts(_windows(axes, window)))


def _windows(axes: tuple[Axis, Axis], window: int) -> tuple[Axis, Axis]:
    """Axes cut into windows, unless they are."""
    rows, columns = (axis if axis.whole else axis.cut(window) for axis in axes)
    return rows, columns


def _restore(shape: EncoderShape, units: int, kept: int) -> int:
    """One product of the matrix that finds neighbours, or takes their changes."""
    return 2 * units * kept * shape.unit * shape.hidden
