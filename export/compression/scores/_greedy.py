"""Block greedy: choose K of N tokens in a few unrolled rounds, each of which takes several and looks again.

A greedy loop takes one token at a time and cannot be unrolled for hundreds. Here K is divided exactly over the rounds.
Tokens of one round do not see each other, and the first ones decide most, so rounds grow: one token and a share that
rises with the round's number (docs/results/prune.md). Where the grid is whole a round takes one of each cell of 3 x 3
(or 2 x 2) units before a second of any. With as many rounds as tokens it is the greedy loop itself (ours).
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from itertools import pairwise
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from luvc_export.core.plan import Plan
from luvc_export.export.compression import spu
from luvc_export.export.compression.row_reductions import mark, norms
from luvc_export.export.compression.scores.base import Score, ScoreInput, ScoreSetting

#: Rounds where the plan names none; more than the most make a graph of thousands of nodes a prune.
ROUNDS, _MOST = 12, 64

#: What a token adds is ranked in steps of the most that any adds, or of ``_LEAST`` where that is less: so tokens that
#: rounding alone tells apart rank alike, and are taken by their places on every back-end. 2.4e-6 is the smallest step,
#: above fp32's rounding of a cosine.
_STEPS, _LEAST = 2**14, 0.04

Rounds = Literal["growing", "equal"]

#: What scores that choose in rounds let a user choose.
SETTINGS: dict[str, ScoreSetting[Any]] = {
    "steps": ScoreSetting(0, "Rounds in which tokens are chosen; 0: 12, or as many as are kept.", least=0, most=_MOST),
    "rounds": ScoreSetting("growing", "Rounds take ever more tokens, or equal shares.", choices=get_args(Rounds)),
}


class GreedyScore(Score):
    """A score that chooses in rounds."""

    settings = SETTINGS

    def problems(self, plan: Plan) -> list[str]:
        """Prunes that keep fewer tokens than there are rounds, one line each."""
        steps = plan.llm.method["steps"]
        few = [(layer, keep) for layer, _, keep in plan.chooses if 0 < keep < steps]
        return [
            f"steps: {steps} rounds to keep {keep} tokens before layer {layer}: at most {keep}" for layer, keep in few
        ]


def unit(normed: Tensor) -> Tensor:
    """Tokens of length 1, fp32 [B, G, N, D]."""
    return normed / norms(normed)[..., None].clamp(min=1e-12)


def rounds(keep: int, steps: int, how: Rounds = "growing") -> list[int]:
    """How many tokens each round takes, at least one: ``keep`` in all."""
    count = min(steps or ROUNDS, keep)
    if how == "equal":
        share, extra = divmod(keep, count)
        return [share + (number < extra) for number in range(count)]
    until = [(keep - count) * number * (number + 1) // (count * (count + 1)) for number in range(count + 1)]
    return [1 + after - before for before, after in pairwise(until)]


def choose(
    given: ScoreInput,
    worth: Callable[[Tensor], Tensor],
    near: Callable[[Tensor, int], Tensor],
    cover: Tensor,
    restart: bool = False,
) -> Tensor:
    """Rank fp32 [B, G, N]: 2 and above the K chosen tokens, by their round, and 0 to 1 what the others would still add.

    Tokens of one round rank alike, whole numbers on every back-end: the first of them comes first.

    Args:
        given: Of the score.
        worth: What a token would add, 0 to about 1 [B, G, N], for how well each token is covered [B, G, N].
        near: (flat places as ``spu.flat_index`` gives them, P) -> similarity of every token to the nearest of those.
        cover: How well each token is covered before the first round.
        restart: Whether the first round's choice replaces ``cover``.
    """
    tokens = given.normed.shape[2]
    padding = None if given.padding is None else given.padding().float()
    picks = rounds(given.keep, given.settings.get("steps", 0), given.settings.get("rounds", "growing"))
    places = None if given.grid is None else _places(given.grid, given.images, max(picks), cover.device)
    level = torch.zeros_like(cover) if padding is None else 0.5 * padding  # above 1 is taken; padding goes last
    for number, pick in enumerate(picks):
        rank = _scaled(worth(cover)) - 8.0 * level
        rank = rank if places is None else torch.where(rank < _best_of_cell(rank, *places), rank - 2.0, rank)
        best = spu.best(rank, pick)
        level = level + (1 + len(picks) - number) * mark(best, tokens)
        nearness = near(spu.flat_index(best, tokens), pick)
        cover = nearness if restart and number == 0 else torch.maximum(cover, nearness)
    return torch.where(level > 1, level, _scaled(worth(cover)))


def cells(grid: tuple[int, int], images: int, most: int) -> list[list[int]] | None:
    """Tokens of each cell, side * side of them, the first again where it has fewer; None where cells are too few.

    The largest side of 3 and 2 with at least two cells for each of the ``most`` tokens of a round.
    """
    rows, columns = grid
    for side in (3, 2):
        high, wide = -(-rows // side), -(-columns // side)
        if images * high * wide < 2 * most:
            continue
        table: list[list[int]] = [[] for _ in range(images * high * wide)]
        for place in range(images * rows * columns):
            image, inside = divmod(place, rows * columns)
            row, column = divmod(inside, columns)
            table[(image * high + row // side) * wide + column // side].append(place)
        return [members + members[:1] * (side**2 - len(members)) for members in table]
    return None


def _places(grid: tuple[int, int], images: int, most: int, device: torch.device) -> tuple[Tensor, Tensor, int] | None:
    """``cells`` in a row int64 [cells * side * side], the cell of every token [N], and how many cells.

    Outside of a trace they are made once: thousands of places, asked for by every prune of every prompt, and a CUDA
    graph copies nothing from the host while it is captured.
    """
    return (_laid_out if spu.traced() else _kept_places)(grid, images, most, device)


def _laid_out(grid: tuple[int, int], images: int, most: int, device: torch.device) -> tuple[Tensor, Tensor, int] | None:
    table = cells(grid, images, most)
    if table is None:
        return None
    cell_of = {place: cell for cell, members in enumerate(table) for place in members}
    members = [place for cell in table for place in cell]
    own = [cell_of[place] for place in range(images * grid[0] * grid[1])]
    with torch.inference_mode(False):  # kept for whoever asks next, who may train
        return torch.tensor(members, device=device), torch.tensor(own, device=device), len(table)


_kept_places = lru_cache(maxsize=64)(_laid_out)


def _best_of_cell(rank: Tensor, members: Tensor, cell_of: Tensor, count: int) -> Tensor:
    """For every token the highest rank of its cell [B, G, N]."""
    batch, groups, _ = rank.shape
    inside = rank.index_select(2, members).reshape(batch * groups * count, members.shape[0] // count)
    best = inside.amax(1).reshape(batch, groups, count)
    return best.index_select(2, cell_of)


def _scaled(worth: Tensor) -> Tensor:
    """In whole steps of the largest of the image: 0 to 1."""
    most = largest(worth).clamp(min=_LEAST)
    return torch.floor(worth / most * _STEPS + 0.5) / _STEPS


def largest(values: Tensor) -> Tensor:
    """Of each group [B, G, N] -> [B, G, 1]."""
    batch, groups, tokens = values.shape
    return values.reshape(batch * groups, tokens).amax(1).reshape(batch, groups, 1)
