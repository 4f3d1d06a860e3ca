"""Block greedy: with a token a round it is the greedy loop; with fewer rounds it keeps most of what that gains."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from flat_plans import flat_plan, replan
from numpy.typing import NDArray
from torch import Tensor

from luvc_export.core.plan import Plan
from luvc_export.errors import PlanError
from luvc_export.export.compression import scores, spu
from luvc_export.export.compression.scores import _greedy, _spectrum

GRID = (24, 24)
TOKENS = GRID[0] * GRID[1]


def field(seed: int, grid: tuple[int, int] = GRID, channels: int = 64) -> Tensor:
    """Smooth pictures of random vectors with random loudness, fp32 [1, 1, N, D]."""
    draw = torch.Generator().manual_seed(seed)
    rough = torch.randn(1, channels, grid[0] // 3, grid[1] // 3, generator=draw)
    smooth = torch.nn.functional.interpolate(rough, size=grid, mode="bilinear")
    loud = torch.rand(1, 1, *grid, generator=draw) + 0.1
    return (smooth * loud + 0.1 * torch.randn(1, channels, *grid, generator=draw)).flatten(2).transpose(1, 2)[:, None]


def chosen(name: str, normed: Tensor, keep: int, steps: int, grid: tuple[int, int] | None = GRID) -> list[int]:
    plan = flat_plan(grid or (1, normed.shape[2]), (keep,), last_layer="full", score=name, rho=0.25, steps=steps)
    return chosen_by(plan, normed, grid)


def chosen_by(plan: Plan, normed: Tensor, grid: tuple[int, int] | None = GRID) -> list[int]:
    score, keep = scores.find(plan.llm.method.name), plan.keep[0]
    basis = score.constant(plan, 0, normed.shape[2], normed.shape[3])
    inputs = scores.ScoreInput(normed, basis, "token", keep, None, grid, settings=dict(plan.llm.method.settings))
    return [int(place) for place in spu.select(score.score(inputs), keep)[0, 0]]


def parts(normed: Tensor) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Cosines of all pairs, and the saliency that scope weighs by."""
    plan = flat_plan(GRID, (1,), last_layer="full", rho=0.25)
    inputs = scores.ScoreInput(normed, _spectrum.basis(plan, TOKENS, 64), "token")
    saliency = (normed - _spectrum.filtered(inputs))[0, 0].norm(dim=1)
    along = torch.nn.functional.normalize(normed[0, 0], dim=1).double()
    return (along @ along.T).numpy(), saliency.double().numpy()


def coverage(alike: NDArray[np.float64], kept: list[int]) -> float:
    """Mean over units of the best cosine to a kept one."""
    return float(alike[:, kept].max(1).mean())


def loop(name: str, normed: Tensor, keep: int) -> list[int]:
    """The greedy loop, one at a time, in float64."""
    alike, saliency = parts(normed)
    near, taken = np.zeros(TOKENS), list[int]()
    if name == "maxmin":
        along = torch.nn.functional.normalize(normed[0, 0], dim=1).double().numpy()
        middle = along.mean(0)
        near = along @ middle / np.linalg.norm(middle)
    for number in range(keep):
        gain = saliency * np.maximum(alike - near, 0).sum(1) if name == "scope" else 1 - near
        gain[taken] = -1
        taken.append(int(gain.argmax()))
        likeness = alike[:, taken[-1]]
        near = likeness if name == "maxmin" and number == 0 else np.maximum(near, likeness)
    return sorted(taken)


@pytest.mark.parametrize("name", ["scope", "maxmin"])
def test_as_many_rounds_as_tokens_are_the_greedy_loop(name: str) -> None:
    for seed in range(2):
        normed = field(seed)
        assert chosen(name, normed, 48, 48) == loop(name, normed, 48)


@pytest.mark.parametrize("keep", [58, 144])
def test_the_rounds_keep_nine_tenths_of_what_greedy_gains(keep: int) -> None:
    gained, wanted, blind = 0.0, 0.0, 0.0
    for seed in range(3):
        normed = field(seed)
        alike, saliency = parts(normed)
        top = coverage(alike, list(np.argsort(-saliency)[:keep]))
        wanted += coverage(alike, loop("scope", normed, keep)) - top
        gained += coverage(alike, chosen("scope", normed, keep, 0)) - top
        blind += coverage(alike, chosen("scope", normed, keep, 1, None)) - top
    assert wanted > 0.01
    assert gained >= 0.9 * wanted
    assert blind < 0.9 * wanted  # all in one round see nothing of each other: the bar can be missed


@pytest.mark.parametrize("name", ["scope", "maxmin"])
@pytest.mark.parametrize("colours", [1, 9])
def test_tokens_that_rounding_alone_tells_apart_are_taken_by_their_places(name: str, colours: int) -> None:
    """Every back-end rounds otherwise: areas of one colour keep the same tokens on all, and others as before."""
    flat = torch.randn(colours, 64, generator=torch.Generator().manual_seed(5))
    for normed in (flat.repeat_interleave(TOKENS // colours, 0)[None, None], field(1)):
        kept = chosen(name, normed, 58, 0)
        for seed in range(3):
            noise = torch.randn(normed.shape, generator=torch.Generator().manual_seed(seed))
            assert chosen(name, normed * (1 + 2e-7 * noise), 58, 0) == kept
    assert kept != chosen(name, field(2), 58, 0)


def test_rounds_share_the_budget_exactly() -> None:
    assert _greedy.rounds(10, 4, "equal") == [3, 3, 2, 2]
    assert _greedy.rounds(14, 4) == [2, 3, 4, 5]
    assert _greedy.rounds(3, 0) == _greedy.rounds(3, 0, "equal") == [1, 1, 1]
    for keep in range(1, 150):
        for steps in range(17):
            picks = _greedy.rounds(keep, steps)
            assert sum(picks) == keep and len(picks) == min(steps or _greedy.ROUNDS, keep) and min(picks) >= 1
            assert picks[0] == min(picks) and picks[-1] == max(picks)


def test_plans_made_before_rounds_grew_choose_as_they_did() -> None:
    old = {"grid": list(GRID), "keep": [58], "last_layer": "full", "score": "scope", "rho": 0.25}
    plan = Plan.from_json(old)
    assert plan.llm.method["rounds"] == "equal" and Plan.from_json(plan.to_json()) == plan
    new = flat_plan(GRID, (58,), last_layer="full", score="scope", rho=0.25)
    assert new.llm.method["rounds"] == "growing" and Plan.from_json(new.to_json()) == new
    for each in (replan(plan, score="residual"), replan(new, score="residual")):
        assert Plan.from_json(each.to_json()) == each
    assert "rounds" not in dict(replan(new, score="residual").llm.method.settings)
    with pytest.raises(PlanError, match="rounds: got 'halves', expected growing, equal"):
        scores.described(Plan.from_json(old | {"rounds": "halves"}))
    normed = field(1)
    kept = [chosen_by(made_plan, normed) for made_plan in (plan, new)]
    assert kept[0] != kept[1]
    alike, saliency = parts(normed)
    top, best = coverage(alike, list(np.argsort(-saliency)[:58])), coverage(alike, loop("scope", normed, 58))
    assert coverage(alike, kept[1]) - top >= 0.9 * (best - top)


def test_a_round_takes_one_of_each_cell_before_a_second() -> None:
    """A loud corner would take the whole round; with cells it gets one for each of its own."""
    normed = field(1)
    loud = torch.zeros(GRID)
    loud[:6, :6] = 30.0
    normed = normed * (1 + loud.flatten())[None, None, :, None]
    inside = []
    for grid in (None, GRID):
        kept = chosen("scope", normed, 30, 1, grid)
        inside.append(sum(place // 24 < 6 and place % 24 < 6 for place in kept))
    assert inside[0] > 12 and inside[1] <= 4
    table = _greedy.cells((4, 5), 2, 3)
    assert table is not None and sorted(place for cell in table for place in set(cell)) == list(range(40))
    assert {len(cell) for cell in table} == {9}
    assert _greedy.cells((4, 4), 1, 3) is None  # four cells of two by two for three tokens a round


def test_padding_is_chosen_last() -> None:
    normed = field(2)
    plan = flat_plan(GRID, (100,), last_layer="full", rho=0.25, padding=True)
    padding = torch.zeros(1, 1, TOKENS, dtype=torch.bool)
    padding[..., :500] = True
    index = spu.mark_padding(torch.arange(TOKENS).expand(1, 1, -1), padding)
    for name in ("scope", "maxmin"):
        score = scores.find(name)
        basis = score.constant(plan, 0, TOKENS, 64)
        inputs = scores.ScoreInput(normed, basis, "token", 60, None, GRID, 1, lambda: padding, {"steps": 8})
        kept = spu.select(spu.padding_last(score.score(inputs), index), 60)
        assert int((kept >= 500).sum()) == 60
        blind = score.score(scores.ScoreInput(normed, basis, "token", 60, None, GRID, settings={"steps": 8}))
        best_alone = {*spu.select(score.score(inputs), 60)[0, 0].tolist()}
        assert best_alone == {*kept[0, 0].tolist()} != {*spu.select(blind, 60)[0, 0].tolist()}


def test_cells_laid_out_without_gradients_serve_who_trains() -> None:
    rank, asked = torch.randn(1, 1, 99, requires_grad=True), ((9, 11), 1, 2, torch.device("cpu"))
    with torch.inference_mode():
        laid_out = _greedy._places(*asked)
    assert laid_out is not None and _greedy._places(*asked) is laid_out
    _greedy._best_of_cell(rank, *laid_out).sum().backward()
    assert rank.grad is not None and int(rank.grad.count_nonzero()) == laid_out[2]
