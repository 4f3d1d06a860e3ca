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
from luvc_export.core.plan.encoder import EncoderPrune
from luvc_export.core.plan.merging import Axis, TimeMerge
from luvc_export.errors import PlanError
from luvc_export.export.compression import oim, spu, unit_prune
from luvc_export.export.families.base import Normalise
from luvc_export.export.layers import attention, norm, split_heads
from luvc_export.export.towers.unit_tower import Seen, UnitTower


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


class Stage(NamedTuple):
    """Tokens [n, class tokens + U * side * side, C], the units they are of, and how many class tokens there are.

    ``turns`` are cos and sin of every unit's patches [n, U, side * side * Dh / 2] where a tower turns its heads.
    """

    x: Tensor
    units: oim.Units
    aside: int
    turns: tuple[Tensor, ...] = ()


class LearnedPositionViT(UnitTower):
    """Tower on its one grid; a family overrides ``finish`` and, where its names differ, the rest.

    Args:
        tower: Vision model with ``embeddings`` and encoder layers.
        plan: Grid and merges.
        normalise: Pixel arithmetic.
        grid: Units (rows, columns) the tower is made for.
        side: Patches per side of a unit.
        features: Hidden states to give to ``finish``, k being the state after k blocks; ascending.

    Raises:
        PlanError: The plan is for another grid, or merges frames that have class tokens.
    """

    #: The embedding is a product with patches [rows, columns, colours], not a convolution.
    colours_last = False

    def __init__(
        self, tower: Any, plan: Plan, normalise: Normalise, grid: tuple[int, int], side: int, features: tuple[int, ...]
    ) -> None:
        super().__init__(plan, features[-1], tuple(state - 1 for state in features[:-1]))
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
        self.normalise, self.side, self.features, self.patches = normalise, side, features, side**2
        self.head_dim = self.config.hidden_size // self.config.num_attention_heads
        self.scale = float(self.head_dim) ** -0.5
        if plan.encoder.time is not None and self.aside:
            raise PlanError(
                "frames do not merge in this encoder",
                where="plan.encoder.time",
                got="a class token, which is of one frame alone",
                fix="leave out --merge-frames",
            )

    def forward(self, image: Tensor, beside: Tensor | None = None) -> Seen:
        """uint8 [n, F, H, W, 3] -> embeddings [n, N_0, D], positions [n, N_0, 2 * copies], merged_into [n, H0 * W0].

        ``beside``, what the plan's graph asks beside the image (``graph_io.vision_inputs``), is bool [n, H0, W0], units
        that show padding alone, or with a bucket int32 [n, K], the units to compute.
        """
        return self.from_pixels(self.normalise(image), beside)

    def from_pixels(self, pixels: Tensor, beside: Tensor | None = None) -> Seen:
        """As ``forward``, from normalised pixels fp32 [n, F, H, W, 3]."""
        x, aside = self._start(pixels)
        padding = None if self.plan.encoder.takes_units else beside
        units = oim.start(self._as_units(x, aside, *self.plan.grid), self.copies, padding)
        return self.run(units, Stage(x, units, aside, self.turns(units)), beside)

    def arrange(self, units: oim.Units, axes: tuple[Axis, Axis] | None, x: Tensor | None) -> Stage:
        """Merged units unit by unit behind the class tokens of ``x``."""
        assert x is not None
        aside = self.aside
        return Stage(torch.cat([x[:, :aside], self._as_tokens(units.x)], 1), units, aside, self.turns(units))

    def fewer(self, units: oim.Units, stage: Stage, time: TimeMerge) -> Stage:
        """Any frames' stage of as many."""
        first = (part.unflatten(0, (-1, time.frames))[:, : time.keep].flatten(0, 1) for part in (stage.x, *units))
        x, *rest = first
        left = oim.Units(*rest)
        return Stage(x, left, 0, self.turns(left))

    def leave(self, units: oim.Units, x: Tensor, stage: Stage) -> oim.Units:
        """Without class tokens."""
        return units if x is stage.x else units._replace(x=self._as_units(x, stage.aside, *units.x.shape[1:3]))

    def block(self, number: int, x: Tensor, stage: Stage, pruned: unit_prune.Kept | None) -> Tensor:
        """One block; attention on kept units reads the others while they are seen."""
        parts = self.parts(self.layers()[number])
        if pruned is None:
            return self._block(parts, x, stage)
        prune, aside = self.plan.encoder.prune, stage.aside
        if prune is None or number > prune.block + prune.stabilise:
            sizes = unit_prune.rows(stage.units.sizes.flatten(1), pruned.chosen_at)[:, :, None]
            turns = tuple(unit_prune.rows(turn, pruned.chosen_at) for turn in stage.turns)
            return self._block(parts, x, stage._replace(units=stage.units._replace(sizes=sizes), turns=turns))
        others = unit_prune.restored(pruned, self._kept_units(x, aside, pruned.chosen_at.shape[1]))
        seen = torch.cat([x[:, :aside], self._flat(others)], 1)
        out = self._attended(parts, seen, stage)
        rows = unit_prune.rows(self._kept_units(out, aside, pruned.before.shape[1]), pruned.chosen_at)
        return self._after_attention(parts, x, torch.cat([out[:, :aside], self._flat(rows)], 1))

    def tap(self, x: Tensor, units: oim.Units, stage: Stage, pruned: unit_prune.Kept | None) -> Tensor:
        """Units on the grid, or after a prune [n, U or K, F]: all where they come back."""
        if pruned is None:
            return self.leave(units, x, stage).x
        kept = self._kept_units(x, stage.aside, pruned.chosen_at.shape[1])
        return unit_prune.restored(pruned, kept) if self.plan.encoder.grid_intact else kept

    def choose(
        self, prune: EncoderPrune, x: Tensor, before: Tensor, units: oim.Units, stage: Stage, padded: bool
    ) -> unit_prune.Kept:
        """By the whole image."""
        rows, columns = units.x.shape[1:3]
        layers, basis = self.layers(), None
        normed = norm(self.parts(layers[prune.block + 1]).before, x) if prune.block + 1 < self.blocks else x
        if prune.score == "residual":
            basis = spu.lowpass_basis_2d(rows, columns, prune.rho)
        seen, moved = (self._as_units(part, stage.aside, rows, columns).flatten(1, 2) for part in (normed, x - before))
        scores = unit_prune.score(prune, seen, moved, basis)
        if padded:
            scores = unit_prune.padding_last(scores, units.sizes.flatten(1), oim.HALF)
        count = rows * columns
        index = unit_prune.select(scores, [(1, count, prune.count(count))])
        return unit_prune.prune(units.x.flatten(1, 2), index, prune)

    def only(self, units: oim.Units, stage: Stage, places: Tensor) -> unit_prune.Kept:
        """Nothing of the others is ever seen."""
        chosen = unit_prune.rows(units.x.flatten(1, 2), places)
        return unit_prune.Kept(places, chosen, chosen, None)

    def chosen(self, x: Tensor, pruned: unit_prune.Kept) -> Tensor:
        """Behind the class tokens."""
        return torch.cat([x[:, : self.aside], self._flat(pruned.chosen)], 1)

    def give(
        self, x: Tensor, saved: list[Tensor], units: oim.Units, stage: Stage, pruned: unit_prune.Kept | None
    ) -> Tensor:
        """``finish`` of all states wanted."""
        return self.finish(self.states_left(x, saved, units, stage, pruned))

    def states_left(
        self, x: Tensor, saved: list[Tensor], units: oim.Units, stage: Stage, pruned: unit_prune.Kept | None
    ) -> list[Tensor]:
        """The hidden states of ``features``, each [n, U * side * side, C] of the units that are left."""
        states = [*saved, self.tap(x, units, stage, pruned)]
        if pruned is not None and not self.plan.encoder.grid_intact:
            at = pruned.chosen_at
            states = [unit_prune.rows(part.flatten(1, 2), at) if part.dim() == 4 else part for part in states]
        return [self._flat(state.flatten(1, -2)) for state in states]

    def stayed(self, pruned: unit_prune.Kept) -> Tensor:
        """Units never change their order."""
        return pruned.chosen_at

    def finish(self, states: list[Tensor]) -> Tensor:
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
        """Convolution, or product, that embeds a patch."""
        return self.tower.embeddings.patch_embedding

    def embedded(self, patches: Tensor) -> Tensor:
        """What happens to embedded patches [n, patches, C] before their positions."""
        return patches

    def positions(self) -> Tensor:
        """Learned positions [class tokens + patches, C], patches row by row."""
        table: Tensor = self.tower.embeddings.position_embedding.weight
        return table

    def class_token(self) -> Tensor | None:
        """Class token [1, C] that stands first; None where there is none."""
        return None

    def turns(self, units: oim.Units) -> tuple[Tensor, ...]:
        """Angles, cos and sin, of every unit's patches, where heads are turned: see ``Stage``."""
        return ()

    @property
    def aside(self) -> int:
        """Class tokens before the units."""
        return 0 if self.class_token() is None else 1

    def enter(self, x: Tensor) -> Tensor:
        """What happens to [n, class tokens + patches, C] before the first block."""
        return x

    def _start(self, pixels: Tensor) -> tuple[Tensor, int]:
        """Embedded tokens [n, class tokens + U * side * side, C] and the number of class tokens."""
        (rows, columns), side, conv = self.plan.grid, self.side, self.patch()
        patch = self.config.patch_size if self.colours_last else conv.weight.shape[-1]
        pixels = pixels[:, 0, : rows * side * patch, : columns * side * patch]
        pixels = pixels.reshape(-1, rows, side, patch, columns, side, patch, 3)
        pixels = pixels.permute(0, 1, 4, 2, 5, *((3, 6, 7) if self.colours_last else (7, 3, 6)))
        pixels = pixels.reshape(-1, rows * columns * side * side, 3 * patch * patch).to(conv.weight.dtype)
        x = self.embedded(nn.functional.linear(pixels, conv.weight.flatten(1), conv.bias))
        table, token, aside = self.positions(), self.class_token(), self.aside
        x = x + table[aside:].index_select(0, self._unit_order()).to(x.dtype)
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

        By a gather, as bundles of before have it.
        """
        if aside:
            x = x.index_select(1, torch.arange(aside, aside + rows * columns * self.side**2))
        return x.reshape(-1, rows, columns, self.side**2 * x.shape[2])

    def _as_tokens(self, units: Tensor) -> Tensor:
        """Units [n, rows, columns, side * side * C] -> tokens [n, U * side * side, C]."""
        rows, columns, width = units.shape[1:]
        return units.reshape(-1, rows * columns * self.side**2, width // self.side**2)

    def _block(self, parts: Parts, x: Tensor, stage: Stage) -> Tensor:
        return self._after_attention(parts, x, self._attended(parts, x, stage))

    def _attended(self, parts: Parts, x: Tensor, stage: Stage) -> Tensor:
        normed = norm(parts.before, x)
        query, key, value = parts.query(normed), parts.key(normed), parts.value(normed)
        if parts.query_norm is not None:
            query, key = norm(parts.query_norm, query), norm(parts.key_norm, key)
        query, key, value = (split_heads(part, self.head_dim) for part in (query, key, value))
        return attention(query, key, value, self._bias(stage, x.dtype), self.scale)

    def _after_attention(self, parts: Parts, x: Tensor, out: Tensor) -> Tensor:
        out = parts.out(out)
        x = x + (out if parts.scales is None else out * parts.scales[0])
        out = parts.mlp(norm(parts.after, x))
        return x + (out if parts.scales is None else out * parts.scales[1])

    def _flat(self, units: Tensor) -> Tensor:
        """Units [n, U, side * side * C] -> tokens [n, U * side * side, C]."""
        return units.reshape(-1, units.shape[1] * self.side**2, units.shape[2] // self.side**2)

    def _kept_units(self, x: Tensor, aside: int, count: int) -> Tensor:
        """Tokens -> the ``count`` units behind class tokens [n, count, side * side * C]."""
        return self._as_units(x, aside, count, 1).flatten(1, 2)

    def _bias(self, stage: Stage, dtype: torch.dtype) -> Tensor | None:
        """log(size) of every key's unit [n, 1, tokens, tokens], 0 for class tokens; None unless the plan asks."""
        if not self.plan.encoder.size_bias:
            return None
        sizes = stage.units.sizes.flatten(1).log()[:, :, None].expand(-1, -1, self.side**2).flatten(1)
        rows = nn.functional.pad(sizes, (stage.aside, 0)).to(dtype)[:, None, None, :]
        return rows.expand(-1, -1, rows.shape[-1], -1)
