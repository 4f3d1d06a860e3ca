"""Encoders with 2-D rotary positions: square groups of patches as units, windows or none. Names are Qwen-VL's."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from luvc_export.core.plan import Plan
from luvc_export.core.plan.encoder import EncoderPrune
from luvc_export.core.plan.merging import Axis, TimeMerge
from luvc_export.core.shapes import EncoderShape
from luvc_export.export.compression import oim, spu, unit_prune
from luvc_export.export.families.base import Normalise
from luvc_export.export.layers import attention, norm, rotate, split_heads
from luvc_export.export.llm.rope import Rope
from luvc_export.export.towers import pruned_windows
from luvc_export.export.towers.pruned_windows import EncoderState, PrunedState, Window
from luvc_export.export.towers.unit_tower import Seen, UnitTower


class Sizes(NamedTuple):
    """What a tower's config says: heads, pixels of a patch, patches along a unit, frames of a patch, base of RoPE."""

    heads: int
    patch: int
    side: int
    frames: int
    theta: float


class Parts(NamedTuple):
    """One encoder block, whatever its names: norms, query, key and value side by side, what follows them."""

    before: Any
    qkv: Callable[[Tensor], Tensor]
    out: Any
    after: Any
    mlp: Any


class RotaryPositionViT(UnitTower):
    """Encoder on one static grid: tokens stay in window order, and go back to raster order only to merge.

    Window order lasts from block to block (full attention does not care), so windows are slices, not gathers. A family
    overrides ``finish``, ``learned_positions`` and ``finish_plane`` where it has them, and the names that differ.

    Args:
        visual: Vision model.
        plan: Grid and merges.
        normalise: Pixel arithmetic.
        shape: Channels of a patch, units per window side, blocks that see the whole image.
        tapped: Blocks whose output is also given out, as planes after the embeddings.
    """

    inner: Tensor

    def __init__(
        self, visual: Any, plan: Plan, normalise: Normalise, shape: EncoderShape, tapped: tuple[int, ...] = ()
    ) -> None:
        super().__init__(plan, len(self.layers(visual)), tapped)
        self.visual: Any = visual
        self.config: Any = visual.config
        self.normalise = normalise
        self.hidden, self.window, self.full = shape.hidden, shape.window, shape.full_attention
        self.sizes = sizes = self.sizes_of(visual.config)
        self.head_dim = shape.hidden // sizes.heads
        frequencies = self.head_dim // 4
        self.rope = Rope(self.frequencies(frequencies), [0] * frequencies + [1] * frequencies)
        side = sizes.side
        self.patches = side * side
        self.patch_size = 3 * sizes.frames * sizes.patch**2
        inner = torch.stack(torch.meshgrid(torch.arange(side), torch.arange(side), indexing="ij"), -1)
        self.register_buffer("inner", inner.reshape(side * side, 2).float(), persistent=False)

    def forward(self, image: Tensor, beside: Tensor | None = None) -> Seen:
        """uint8 [n, F, H, W, 3] -> embeddings [n, N_0, D], positions [n, N_0, 2 * copies], merged_into [n, H0 * W0].

        With tapped blocks the embeddings are [n, N_0, (1 + planes) * D], each token followed by its planes.
        ``beside``, what the plan's graph asks beside the image (``graph_io.vision_inputs``), is bool [n, H0, W0], units
        that show padding alone, or with a bucket int32 [n, K], the units to compute.
        """
        return self._from_units(self._patches(image), beside)

    def from_patches(self, pixels: Tensor, beside: Tensor | None = None) -> Seen:
        """As ``forward``, from normalised patches unit by unit, as transformers' processors write them.

        Args:
            pixels: n * H0 * W0 * patches patches of (channel, frame, row, column), in any shape.
            beside: See ``forward``.
        """
        return self._from_units(pixels, beside)

    def _from_units(self, pixels: Tensor, beside: Tensor | None) -> Seen:
        """From patches that stand unit by unit."""
        padding = None if self.plan.encoder.takes_units else beside
        units = oim.start(self._embed(pixels), self.copies, padding)
        return self.run(units, self.arrange(units), beside)

    def finish(self, x: Tensor) -> Tensor:
        """Patch merger: [n, U * patches, C] -> [n, U, D]."""
        raise NotImplementedError

    def finish_plane(self, index: int, x: Tensor) -> Tensor:
        """Merger of plane ``index``: [n, U * patches, C] -> [n, U, D]."""
        raise NotImplementedError

    def learned_positions(self, rows: int, columns: int) -> Tensor | None:
        """Learned embedding of every patch in unit order [rows * columns * patches, C]; None where there is none."""
        return None

    def sizes_of(self, config: Any) -> Sizes:
        """Names of Qwen-VL's configs."""
        theta = config.rope_parameters["rope_theta"]
        return Sizes(config.num_heads, config.patch_size, config.spatial_merge_size, config.temporal_patch_size, theta)

    def frequencies(self, count: int) -> Tensor:
        """Radians per row, ``count`` of them, then per column, fp32 [2 * count]."""
        inverse: Tensor = self.sizes.theta ** -(torch.arange(count) / count)
        return inverse.repeat(2)

    def layers(self, visual: Any) -> Any:
        """Encoder blocks."""
        return visual.blocks

    def parts(self, layer: Any) -> Parts:
        """Names of Qwen-VL."""
        return Parts(layer.norm1, layer.attn.qkv, layer.attn.proj, layer.norm2, layer.mlp)

    def patch(self) -> Any:
        """Convolution that embeds a patch."""
        return self.visual.patch_embed.proj

    def enter(self, x: Tensor) -> Tensor:
        """What happens to embedded patches [n, rows * columns * patches, C] before the first block."""
        return x

    def per_unit(self, x: Tensor) -> Tensor:
        """[n, U * patches, C] -> [n, U, patches * C]."""
        return x.reshape(-1, x.shape[1] // self.patches, self.patches * x.shape[2])

    def _patches(self, image: Tensor) -> Tensor:
        """Patches [n, rows, columns, 2, 2, channel, frame, row, column], of real frames with some of these axes joined.

        One frame fills both temporal places.
        """
        patch, merge, frames = self.sizes.patch, self.sizes.side, self.sizes.frames
        rows, columns = self.plan.grid
        pixels = self.normalise(image)
        if image.shape[1] > 1:  # in two steps: rows of pixels move whole, then colours alone; TensorRT takes eight axes
            tiles = pixels.reshape(-1, frames, rows, merge, patch, columns, merge, patch * 3)
            tiles = tiles.permute(0, 2, 5, 3, 6, 1, 4, 7)
            tiles = tiles.reshape(-1, rows * columns * merge * merge, frames * patch * patch, 3)
            return tiles.permute(0, 1, 3, 2)
        pixels = pixels.expand(-1, frames, -1, -1, -1)
        pixels = pixels.reshape(-1, frames, rows, merge, patch, columns, merge, patch, 3)
        return pixels.permute(0, 2, 5, 3, 6, 8, 1, 4, 7)

    def _embed(self, pixels: Tensor) -> Tensor:
        """Patches of every unit, embedded: [n, rows, columns, patches * C]."""
        rows, columns = self.plan.grid
        pixels = pixels.reshape(-1, rows * columns * self.patches, self.patch_size)
        proj = self.patch()
        x = nn.functional.linear(pixels.to(proj.weight.dtype), proj.weight.reshape(self.hidden, -1), proj.bias)
        learned = self.learned_positions(rows, columns)
        x = self.enter(x if learned is None else x + learned)
        return x.reshape(-1, rows, columns, self.patches * self.hidden)

    def arrange(self, units: oim.Units, axes: tuple[Axis, Axis] | None = None, x: Tensor | None = None) -> EncoderState:
        """Put raster units into window order, with rotary caches and size bias of every window batch.

        Windows that merged apart stay windows.
        """
        rows, columns = units.x.shape[1:3]
        if self.window and axes is not None and axes[0].whole:
            windows = cut(axes[0].edges, axes[1].edges)
        else:
            windows = layout(
                rows, columns, self.window, self.plan.grid if self.plan.encoder.windows == "area" else None
            )
        order = torch.tensor(windows.order)
        length = rows * columns * self.patches
        x = units.x.flatten(1, 2).index_select(1, order).reshape(-1, length, self.hidden)
        place = units.positions.flatten(1, 2).index_select(1, order)
        patch = place[:, :, None] * self.sizes.side + self.inner
        cos, sin = self.rope(patch.reshape(-1, length, 2).permute(2, 0, 1))
        bias = None
        if self.plan.encoder.size_bias:
            sizes = units.sizes.flatten(1).index_select(1, order).log()[:, :, None]
            bias = sizes.expand(-1, -1, self.patches).reshape(-1, length).to(x.dtype)
        whole = Window(0, length, length, cos, sin, bias)
        batches, begin = [], 0
        for number, members in windows.batches:
            end, inside = begin + number * members * self.patches, members * self.patches
            caches = [part[:, begin:end].reshape(-1, inside, self.head_dim // 2) for part in (cos, sin)]
            inside_bias = None if bias is None else bias[:, begin:end].reshape(-1, inside)
            batches.append(Window(begin, end, inside, caches[0], caches[1], inside_bias))
            begin = end
        return EncoderState(x, [whole], batches, torch.tensor(windows.inverse), order, windows.batches)

    def fewer(self, units: oim.Units, stage: EncoderState, time: TimeMerge) -> EncoderState:
        """Windows and angles are the same in every frame."""

        def first(part: Tensor) -> Tensor:
            return part.unflatten(0, (-1, time.frames))[:, : time.keep].flatten(0, 1)

        return self.arrange(oim.Units(*(first(part) for part in units)))

    def leave(self, units: oim.Units, x: Tensor, stage: EncoderState) -> oim.Units:
        """Back to raster order."""
        if x is stage.x:
            return units
        return units._replace(x=self.per_unit(x).index_select(1, stage.raster).reshape(units.x.shape))

    def tap(self, x: Tensor, units: oim.Units, stage: EncoderState, pruned: PrunedState | None) -> Tensor:
        """Units on the grid; of kept units alone, in the order of the tower, where none come back."""
        if not self.plan.encoder.grid_intact and pruned is not None:
            return self.per_unit(x)
        return self.leave(units, x if pruned is None else self._restored(x, pruned), stage).x

    def choose(
        self, prune: EncoderPrune, x: Tensor, before: Tensor, units: oim.Units, stage: EncoderState, padded: bool
    ) -> PrunedState:
        """By the whole image, or in every window alike."""
        layers, basis = self.layers(self.visual), None
        normed = norm(self.parts(layers[prune.block + 1]).before, x) if prune.block + 1 < self.blocks else x
        if prune.score == "residual":
            rows, columns = units.x.shape[1:3]
            basis = spu.lowpass_basis_2d(rows, columns, prune.rho)[stage.order]
        scores = unit_prune.score(prune, self.per_unit(normed), self.per_unit(x - before), basis)
        if padded:
            scores = unit_prune.padding_last(scores, units.sizes.flatten(1)[:, stage.order], oim.HALF)
        index = unit_prune.select(scores, pruned_windows.quotas(prune, stage))
        kept = unit_prune.prune(self.per_unit(x), index, prune)
        return pruned_windows.leave(prune, stage, kept, self.patches)

    def only(self, units: oim.Units, stage: EncoderState, places: Tensor) -> PrunedState:
        """Windows with gaps, from the first block on; units in raster order."""
        return pruned_windows.of_units(stage, places, unit_prune.rows(units.x.flatten(1, 2), places), self.patches)

    def chosen(self, x: Tensor, pruned: PrunedState) -> Tensor:
        """Unit by unit."""
        return pruned.kept.chosen.reshape(x.shape[0], -1, self.hidden)

    def give(
        self, x: Tensor, saved: list[Tensor], units: oim.Units, stage: EncoderState, pruned: PrunedState | None
    ) -> Tensor:
        """``finish`` in raster order, then the planes."""
        if pruned is not None and not self.plan.encoder.grid_intact:
            embeds, planes = self._give_kept(x, saved, pruned)
        else:
            x = x if pruned is None else self._restored(x, pruned)
            embeds = self.finish(x).index_select(1, stage.raster)
            planes = [plane.reshape(-1, x.shape[1], self.hidden) for plane in saved]
        if not planes:
            return embeds
        return torch.cat([embeds, *(self.finish_plane(i, plane) for i, plane in enumerate(planes))], -1)

    def stayed(self, pruned: PrunedState) -> Tensor:
        """Window order ends here."""
        return pruned_windows.raster(pruned.kept, pruned.seen)[0] if pruned.given is None else pruned.given

    def _restored(self, x: Tensor, pruned: PrunedState) -> Tensor:
        """All tokens, in window order, from those of kept units."""
        return unit_prune.restored(pruned.kept, self.per_unit(x)).reshape(x.shape[0], -1, self.hidden)

    def _give_kept(self, x: Tensor, saved: list[Tensor], pruned: PrunedState) -> tuple[Tensor, list[Tensor]]:
        """Where units stay away: embeddings and planes of kept ones, in raster order."""
        if pruned.given is not None:
            return self.finish(x), [plane.reshape(x.shape) for plane in saved]
        index, own = pruned_windows.raster(pruned.kept, pruned.seen)

        def tokens(state: Tensor) -> Tensor:
            rows = unit_prune.rows(state.flatten(1, 2), index) if state.dim() == 4 else unit_prune.rows(state, own)
            return rows.reshape(state.shape[0], -1, self.hidden)

        return self.finish(tokens(self.per_unit(x))), [tokens(plane) for plane in saved]

    def block(self, number: int, x: Tensor, stage: EncoderState, pruned: PrunedState | None) -> Tensor:
        """One block; attention on kept units reads others while they are seen, and gaps where windows have them."""
        block, full = self.parts(self.layers(self.visual)[number]), number in self.full
        if pruned is None:
            return self._block(block, x, stage.whole if full else stage.windows)
        kept, windows = pruned.kept, pruned.seen.whole if full else pruned.seen.windows
        if number <= pruned.last:
            qkv = block.qkv(norm(block.before, self._restored(x, pruned)))
            outs = unit_prune.rows(self.per_unit(self._attend_all(qkv, windows)), kept.chosen_at)
        elif not full and pruned.place is not None:
            qkv = self.per_unit(block.qkv(norm(block.before, x)))
            spread = unit_prune.rows(qkv, pruned.place).reshape(x.shape[0], -1, 3 * self.hidden)
            outs = unit_prune.rows(self.per_unit(self._attend_all(spread, pruned.windows)), kept.chosen_at)
        else:
            outs = self._attend_all(block.qkv(norm(block.before, x)), pruned.whole if full else pruned.windows)
        return self._after_attention(block, x, outs.reshape(x.shape))

    def _block(self, block: Parts, x: Tensor, windows: list[Window]) -> Tensor:
        qkv = block.qkv(norm(block.before, x))
        return self._after_attention(block, x, self._attend_all(qkv, windows))

    def _after_attention(self, block: Parts, x: Tensor, out: Tensor) -> Tensor:
        x = x + block.out(out)
        return x + block.mlp(norm(block.after, x))

    def _attend_all(self, qkv: Tensor, windows: list[Window]) -> Tensor:
        outs = [self._attend(qkv, window) for window in windows]
        return torch.cat(outs, 1) if len(outs) > 1 else outs[0]

    def _attend(self, qkv: Tensor, window: Window) -> Tensor:
        """Attention inside the windows of one batch: [n, S, 3 * C] -> [n, end - begin, C]."""
        parts = qkv[:, window.begin : window.end].reshape(-1, window.length, qkv.shape[2]).chunk(3, -1)
        query, key, value = (split_heads(part, self.head_dim) for part in parts)
        query, key = rotate(query, window.cos, window.sin), rotate(key, window.cos, window.sin)
        mask = None if window.bias is None else window.bias[:, None, None, :].expand(-1, -1, window.length, -1)
        out = attention(query, key, value, mask, self.head_dim**-0.5)
        return out.reshape(-1, window.end - window.begin, self.hidden)


@dataclass(frozen=True)
class WindowLayout:
    """Units in window order.

    Attributes:
        order: Raster index of the unit at each place.
        batches: (windows, units per window) of each run of equal windows, in that order.
    """

    order: tuple[int, ...]
    batches: tuple[tuple[int, int], ...]

    @property
    def inverse(self) -> tuple[int, ...]:
        """Place of each raster unit in window order."""
        places = [0] * len(self.order)
        for place, unit in enumerate(self.order):
            places[unit] = place
        return tuple(places)


def edges(size: int, window: int, original: int | None = None) -> list[int]:
    """Where windows begin and end along one axis of ``size`` units.

    With ``original`` (the axis before merging) a window covers the same picture area as before: its edges are scaled.
    """
    whole = original or size
    starts = [*range(0, whole, window), whole]
    return sorted({round(start * size / whole) for start in starts})


def layout(rows: int, columns: int, window: int, original: tuple[int, int] | None = None) -> WindowLayout:
    """Windows of ``window`` x ``window`` units on a ``rows`` x ``columns`` grid; 0 means one window for all."""
    side = window or max(rows, columns)
    row_edges = edges(rows, side, original[0] if original else None)
    return cut(row_edges, edges(columns, side, original[1] if original else None))


def cut(row_edges: Sequence[int], column_edges: Sequence[int]) -> WindowLayout:
    """Windows between edges, the largest first."""
    columns = column_edges[-1]
    windows = [
        [row * columns + column for row in range(top, bottom) for column in range(left, right)]
        for top, bottom in pairwise(row_edges)
        for left, right in pairwise(column_edges)
    ]
    windows.sort(key=len, reverse=True)
    lengths = [len(members) for members in windows]
    batches = tuple((lengths.count(length), length) for length in sorted(set(lengths), reverse=True))
    return WindowLayout(tuple(unit for members in windows for unit in members), batches)
