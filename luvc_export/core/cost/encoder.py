"""FLOPs of a vision encoder's blocks under a plan's encoder part: what merging and pruning inside it saves.

A multiply-add counts as 2; every projection, and attention as the rectangle that is computed. Patch embedding and
patch merger are left out.
"""

from __future__ import annotations

from collections.abc import Callable

from luvc_export.core.plan import EncoderPlan
from luvc_export.core.plan.merging import Axis, equal_parts, whole
from luvc_export.core.shapes import EncoderShape


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
