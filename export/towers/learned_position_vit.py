"""Vision towers with learned absolute positions and full attention (CLIP, SigLIP and their kin), merged unit by unit.

A unit is ``side`` x ``side`` patches: 1 where each patch becomes a token, the pixel-shuffle or pooling factor
elsewhere, so that what is behind the tower still meets whole groups. Attention does not care about the order of tokens,
so they stay unit by unit; class tokens stand before them, set aside from merging. A learned position is added once,
before the first merge, and needs nothing after it.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from luvc_export.core.plan import Plan
from luvc_export.core.plan.encoder_prune import EncoderPrune
from luvc_export.errors import PlanError
from luvc_export.export.compression import oim, spu, unit_prune
from luvc_export.export.families.base import POSITION_COPIES, Normalise
from luvc_export.export.layers import attention, norm, split_heads
from luvc_export.export.llm.rope import merged_positions
from luvc_export.export.towers import feature_planes, pruned_windows


class Parts(NamedTuple):
    """One encoder block, whatever its names: norms, projections, MLP; ``scales`` are LayerScale vectors or None."""

    before: Any
    query: Any
    key: Any
    value: Any
    out: Any
    after: Any
    mlp: Any
    scales: tuple[Tensor, Tensor] | None = None
    query_norm: Any = None
    key_norm: Any = None


class LearnedPositionViT(nn.Module):
    """Tower on its one grid; a family overrides ``finish`` and, where its names differ, the rest.

    Args:
        tower: Vision model with ``embeddings`` and encoder layers.
        plan: Grid and merges.
        normalise: Pixel arithmetic.
        grid: Units (rows, columns) the tower is made for.
        side: Patches per side of a unit.
        features: Hidden states to give to ``finish``, k being the state after k blocks; ascending.

    Raises:
        PlanError: The plan is for another grid.
    """

    def __init__(
        self, tower: Any, plan: Plan, normalise: Normalise, grid: tuple[int, int], side: int, features: tuple[int, ...]
    ) -> None:
        super().__init__()
        if plan.grid != grid:
            raise PlanError(
                "this model takes one image size only",
                where="plan.grid",
                got=plan.grid,
                expected=f"{grid}, the grid its position embeddings are learned for",
                fix="leave out the image size",
            )
        self.tower: Any = tower
        self.config: Any = tower.config
        self.plan, self.normalise, self.side, self.features = plan, normalise, side, features
        self.head_dim = self.config.hidden_size // self.config.num_attention_heads
        self.copies = POSITION_COPIES if plan.encoder.positions == "multi" else 1
        self.scale = float(self.head_dim) ** -0.5

    def forward(self, image: Tensor, beside: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor]:
        """uint8 [n, F, H, W, 3] -> embeddings [n, N_0, D], positions [n, N_0, 2 * copies], merged_into [n, H0 * W0].

        ``beside``, what the plan's graph asks beside the image (``graph_io.vision_inputs``), is bool [n, H0, W0], units
        that show padding alone, or with a bucket int32 [n, K], the units to compute.
        """
        x, aside = self._start(image)
        if self.plan.encoder.takes_units:
            assert beside is not None
            return self._from_units(x, aside, beside.long())
        padding = beside
        units = oim.start(self._as_units(x, aside, *self.plan.grid), self.copies, padding)
        saved: dict[int, Tensor] = {}
        last, prune, kept = self.features[-1], self.plan.encoder.prune, None
        for number, layer in enumerate(self.layers()[:last]):
            before = x
            if kept is None:
                x = self._block(self.parts(layer), x, units, aside)
            else:
                x = self._pruned_block(self.parts(layer), x, units, aside, kept, number)
            passes = [found for found in self.plan.encoder.merge_passes if found.step.block == number]
            pruned_here = prune is not None and prune.block == number
            tapped = number + 1 in self.features
            if kept is None and (tapped or passes or pruned_here):
                units = units._replace(x=self._as_units(x, aside, *units.x.shape[1:3]))
            if tapped and number + 1 != last:
                saved[number + 1] = units.x if kept is None else self._give(x, aside, kept)
            for step in passes:
                planes = list(saved.values())
                units, moved = feature_planes.merge(
                    units, planes, step, self.plan.encoder.merge_mode, padding is not None
                )
                saved = dict(zip(saved, moved, strict=True))
            if passes:
                x = torch.cat([x[:, :aside], self._as_tokens(units.x)], 1)
            if prune is not None and pruned_here:
                kept = self._prune(prune, x, before, units, aside, padding is not None)
                x = torch.cat([x[:, :aside], self._flat(kept.chosen)], 1)
        positions, into = merged_positions(units, self.plan).flatten(1, 2), units.merged_into
        if kept is None:
            found = [self._as_tokens(plane) for plane in (*saved.values(), units.x)]
            return self.finish(found), positions, into
        states = [*saved.values(), self._give(x, aside, kept)]
        if not self.plan.encoder.grid_intact:
            states = [
                unit_prune.rows(state.flatten(1, 2), kept.chosen_at) if state.dim() == 4 else state for state in states
            ]
            positions = unit_prune.rows(positions, kept.chosen_at)
            into = pruned_windows.dropped(kept.chosen_at, kept.before.shape[1]).gather(1, into)
        return self.finish([self._flat(state.flatten(1, -2)) for state in states]), positions, into

    def _from_units(self, x: Tensor, aside: int, given: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """As ``forward``, of the units ``given`` int64 [n, K] alone, from all tokens as ``_start`` embeds them."""
        units, last = oim.start(self._as_units(x, aside, *self.plan.grid), self.copies), self.features[-1]
        chosen, sizes = unit_prune.rows(units.x.flatten(1, 2), given), unit_prune.rows(units.sizes.flatten(1), given)
        x, saved = torch.cat([x[:, :aside], self._flat(chosen)], 1), list[Tensor]()
        for number, layer in enumerate(self.layers()[:last]):
            x = self._block(self.parts(layer), x, units._replace(sizes=sizes[:, :, None]), aside)
            if number + 1 in self.features:
                saved.append(self._flat(self._kept_units(x, aside, given.shape[1])))
        positions = unit_prune.rows(merged_positions(units, self.plan).flatten(1, 2), given)
        return self.finish(saved), positions, pruned_windows.dropped(given, self.plan.units)

    def finish(self, found: list[Tensor]) -> Tensor:
        """From each wanted hidden state [n, U * side * side, C] (unit by unit) to embeddings [n, U, D]."""
        raise NotImplementedError

    def layers(self) -> Any:
        """Encoder blocks."""
        return self.tower.encoder.layers

    def parts(self, layer: Any) -> Parts:
        """Names of CLIP, SigLIP and Idefics."""
        a = layer.self_attn
        return Parts(layer.layer_norm1, a.q_proj, a.k_proj, a.v_proj, a.out_proj, layer.layer_norm2, layer.mlp)

    def patch(self) -> Any:
        """Convolution that embeds a patch."""
        return self.tower.embeddings.patch_embedding

    def positions(self) -> Tensor:
        """Learned positions [class tokens + patches, C], patches row by row."""
        table: Tensor = self.tower.embeddings.position_embedding.weight
        return table

    def class_token(self) -> Tensor | None:
        """Class token [1, C] that stands first; None where there is none."""
        return None

    def enter(self, x: Tensor) -> Tensor:
        """What happens to [n, class tokens + patches, C] before the first block."""
        return x

    def _start(self, image: Tensor) -> tuple[Tensor, int]:
        """Embedded tokens [n, class tokens + U * side * side, C] and the number of class tokens."""
        (rows, columns), side, conv = self.plan.grid, self.side, self.patch()
        patch = conv.weight.shape[-1]
        pixels = self.normalise(image)[:, 0, : rows * side * patch, : columns * side * patch]
        pixels = pixels.reshape(-1, rows, side, patch, columns, side, patch, 3).permute(0, 1, 4, 2, 5, 7, 3, 6)
        pixels = pixels.reshape(-1, rows * columns * side * side, 3 * patch * patch).to(conv.weight.dtype)
        x = nn.functional.linear(pixels, conv.weight.flatten(1), conv.bias)
        table, token = self.positions(), self.class_token()
        aside = 0 if token is None else 1
        x = x + table[aside:].index_select(0, self._unit_order())
        if token is not None:
            x = torch.cat([(token + table[:1]).expand(x.shape[0], 1, -1), x], 1)
        return self.enter(x), aside

    def _unit_order(self) -> Tensor:
        """Raster patch at each place when patches stand unit by unit, int64 [U * side * side]."""
        rows, columns = self.plan.grid
        raster = torch.arange(rows * columns * self.side**2)
        return raster.reshape(rows, self.side, columns, self.side).transpose(1, 2).flatten()

    def _as_units(self, x: Tensor, aside: int, rows: int, columns: int) -> Tensor:
        """Tokens -> units [n, rows, columns, side * side * C], class tokens left out.

        By a gather: the surgery pass that recognises a merge looks through slices for the state that was merged.
        """
        if aside:
            x = x.index_select(1, torch.arange(aside, aside + rows * columns * self.side**2))
        return x.reshape(-1, rows, columns, self.side**2 * x.shape[2])

    def _as_tokens(self, units: Tensor) -> Tensor:
        """Units [n, rows, columns, side * side * C] -> tokens [n, U * side * side, C]."""
        rows, columns, width = units.shape[1:]
        return units.reshape(-1, rows * columns * self.side**2, width // self.side**2)

    def _block(self, parts: Parts, x: Tensor, units: oim.Units, aside: int) -> Tensor:
        return self._after_attention(parts, x, self._attended(parts, x, units, aside))

    def _attended(self, parts: Parts, x: Tensor, units: oim.Units, aside: int) -> Tensor:
        normed = norm(parts.before, x)
        query, key, value = parts.query(normed), parts.key(normed), parts.value(normed)
        if parts.query_norm is not None:
            query, key = norm(parts.query_norm, query), norm(parts.key_norm, key)
        query, key, value = (split_heads(part, self.head_dim) for part in (query, key, value))
        return attention(query, key, value, self._bias(units, aside, x.dtype), self.scale)

    def _after_attention(self, parts: Parts, x: Tensor, out: Tensor) -> Tensor:
        out = parts.out(out)
        x = x + (out if parts.scales is None else out * parts.scales[0])
        out = parts.mlp(norm(parts.after, x))
        return x + (out if parts.scales is None else out * parts.scales[1])

    def _prune(
        self, prune: EncoderPrune, x: Tensor, before: Tensor, units: oim.Units, aside: int, padded: bool
    ) -> unit_prune.Kept:
        """Choose the units that go on; ``before`` is what the block read."""
        rows, columns = units.x.shape[1:3]
        layers, basis = self.layers(), None
        normed = norm(self.parts(layers[prune.block + 1]).before, x) if prune.block + 1 < self.features[-1] else x
        if prune.score == "residual":
            basis = spu.lowpass_basis_2d(rows, columns, prune.rho)
        seen, moved = (self._as_units(state, aside, rows, columns).flatten(1, 2) for state in (normed, x - before))
        scores = unit_prune.score(prune, seen, moved, basis)
        if padded:
            scores = unit_prune.padding_last(scores, units.sizes.flatten(1), oim.HALF)
        count = rows * columns
        index = unit_prune.select(scores, [(1, count, prune.count(count))])
        return unit_prune.prune(units.x.flatten(1, 2), index, prune)

    def _flat(self, units: Tensor) -> Tensor:
        """Units [n, U, side * side * C] -> tokens [n, U * side * side, C]."""
        return units.reshape(-1, units.shape[1] * self.side**2, units.shape[2] // self.side**2)

    def _kept_units(self, x: Tensor, aside: int, count: int) -> Tensor:
        """Tokens -> the ``count`` units behind class tokens [n, count, side * side * C]."""
        return self._as_units(x, aside, count, 1).flatten(1, 2)

    def _give(self, x: Tensor, aside: int, kept: unit_prune.Kept) -> Tensor:
        """A state as ``finish`` wants it: all units, or kept ones where none come back."""
        units = self._kept_units(x, aside, kept.chosen_at.shape[1])
        return unit_prune.restored(kept, units) if self.plan.encoder.grid_intact else units

    def _pruned_block(
        self, parts: Parts, x: Tensor, units: oim.Units, aside: int, kept: unit_prune.Kept, number: int
    ) -> Tensor:
        """One block on kept units; attention reads the others while they are seen."""
        prune, count = self.plan.encoder.prune, kept.chosen_at.shape[1]
        assert prune is not None
        if number > prune.block + prune.stabilise:
            sizes = unit_prune.rows(units.sizes.flatten(1), kept.chosen_at)[:, :, None]
            return self._block(parts, x, units._replace(sizes=sizes), aside)
        others = unit_prune.restored(kept, self._kept_units(x, aside, count))
        seen = torch.cat([x[:, :aside], self._flat(others)], 1)
        out = self._attended(parts, seen, units, aside)
        rows = unit_prune.rows(self._kept_units(out, aside, kept.before.shape[1]), kept.chosen_at)
        out = torch.cat([out[:, :aside], self._flat(rows)], 1)
        return self._after_attention(parts, x, out)

    def _bias(self, units: oim.Units, aside: int, dtype: torch.dtype) -> Tensor | None:
        """log(size) of every key's unit [n, 1, tokens, tokens], 0 for class tokens; None unless the plan asks."""
        if not self.plan.encoder.size_bias:
            return None
        sizes = units.sizes.flatten(1).log()[:, :, None].expand(-1, -1, self.side**2).flatten(1)
        rows = nn.functional.pad(sizes, (aside, 0)).to(dtype)[:, None, None, :]
        return rows.expand(-1, -1, rows.shape[-1], -1)
