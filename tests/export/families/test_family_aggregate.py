"""The aggregate row: sums lose nothing of what was dropped, and a model with one is the plain one where it must."""

from __future__ import annotations

from collections.abc import Sequence

import family_harness as harness
import pytest
import torch
from family_harness import MADE_HERE, SABOTAGE, TOLERANCE, case
from flat_plans import replan
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from luvc_export.core.plan import Plan
from luvc_export.core.planning import unshared
from luvc_export.export import families
from luvc_export.export.compression import oim
from luvc_export.export.llm.aggregate import Dropped, Mass


def some(rows: int, keep: int, groups: int, draw: torch.Generator) -> Tensor:
    """Chosen rows [1, groups, keep], ascending."""
    chosen = [torch.randperm(rows, generator=draw)[:keep].sort().values for _ in range(groups)]
    return torch.stack(chosen)[None]


@given(st.integers(4, 12), st.data(), st.integers(0, 999))
@settings(max_examples=60, deadline=None)
def test_sizes_and_sums_outlast_two_prunes(rows: int, data: st.DataObject, seed: int) -> None:
    keep = data.draw(st.integers(2, rows - 1)) - 1
    then = data.draw(st.integers(1, keep))
    groups, draw = 2, torch.Generator().manual_seed(seed)
    values, places = (torch.randn(1, groups * rows, width, generator=draw) for width in (6, 3))
    order = torch.randperm(groups * rows, generator=draw)[None]
    sizes = torch.where(torch.rand(1, groups * rows, generator=draw) < 0.3, oim.PADDING, 1.0)
    mass = Mass.of(sizes, places.permute(2, 0, 1))
    first = Dropped(some(rows, keep, groups, draw), rows, mass)
    left, less = first.reduced(values), first.reduced_mass(mass)[0]
    after = first.beside(order, first.last_order(order))
    second = Dropped(some(keep, then, groups, draw), keep + 1, less)
    last, least = second.reduced(left), second.reduced_mass(less)[0]
    final = second.beside(after, second.last_order(after))

    def total(of: Tensor, weigh: Tensor) -> Tensor:
        return (of * weigh[..., None]).unflatten(1, (groups, -1)).sum(2)

    scale = float(values.abs().sum())
    torch.testing.assert_close(total(last, least.values[..., 0]), total(values, sizes), atol=1e-6 * scale, rtol=1e-5)
    moved = total(least.values[..., 1:], least.values[..., 0])
    torch.testing.assert_close(moved, total(places, sizes), atol=1e-6 * scale, rtol=1e-5)
    whole = torch.ones(1)
    torch.testing.assert_close(total(whole, least.values[..., 0]), total(whole, sizes))
    chosen = final.unflatten(1, (groups, then + 1))
    for group in range(groups):
        kept = set(chosen[0, group, :-1].tolist())
        gone = [place for place in order[0].unflatten(0, (groups, rows))[group].tolist() if place not in kept]
        assert int(chosen[0, group, -1]) == max(gone)  # the last of what it is made of


def logits(name: str, aggregate: bool, forced: Sequence[Sequence[int]], twins: tuple[int, int]) -> Tensor:
    """Of a prompt of two pictures and three tokens decoded after it, where ``twins`` of each picture's tokens are one.

    Args:
        name: Family.
        aggregate: Of the plan.
        forced: What each prune keeps of a picture.
        twins: Two tokens with one content, position and order.
    """
    tiny = case(name)
    count = tiny.plan.units
    keep = tuple(len(kept) + aggregate for kept in forced)
    budgets = (count, *keep, *[keep[-1]] * (tiny.plan.layers - 1 - len(keep)))
    budgets = unshared(budgets, tiny.family.decoder_shape(tiny.config))
    plan: Plan = replan(tiny.plan, keep=budgets, schedule="list", aggregate=aggregate)
    decoder = tiny.family.decoder(tiny.model, plan)
    embeds, positions = harness.encode_images(tiny, plan, tiny.images(2))[:2]
    embeds[:, twins[1]] = embeds[:, twins[0]]
    run = harness.lay_out(tiny, plan, tiny.prompt(2), embeds, positions)

    def same(rows: Tensor) -> Tensor:
        twinned = rows.clone()
        for image in range(2):
            twinned[..., image * count + twins[1]] = rows[..., image * count + twins[0]]
        return twinned

    run.change = {"visual_position_ids": same, "visual_order": same}
    kept_rows = {at + 1: torch.tensor(kept).expand(1, 2, -1) for at, kept in enumerate(forced)}
    known = torch.from_numpy(run.layout.input_ids[0]) < tiny.family.decoder_shape(tiny.config).vocab
    with torch.no_grad():
        out, past, _ = decoder(*run.inputs(), harness.empty_past(tiny), forced=kept_rows)
        text = run.layout.input_ids.shape[1]
        rows = harness.cached_rows(tiny, past)
        assert rows == {layer: plan.cache_rows(2, text)[layer] for layer in rows}
        logits = [out[0][known]]
        for step, token in enumerate((5, 17, 42)):
            inputs = harness.next_inputs(run, decoder, token, text + step + 1)
            out, past, _ = decoder(*inputs, past, forced={at: kept[:, :0] for at, kept in kept_rows.items()})
            logits.append(out[0])
    return torch.cat(logits)


FAMILIES = {name: families.find(name, "test") for name in MADE_HERE}
#: Families in which a token changes what comes behind it by being there, whatever it holds.
STATES = [name for name, one in FAMILIES.items() if one.decoder_shape(one.tiny_config()).keyless]


@pytest.mark.parametrize("name", [name for name in MADE_HERE if name not in STATES])
def test_the_mean_of_twins_is_a_twin(name: str) -> None:
    """All but twins kept, an aggregate is one of them: content, angles, order, DeepStack planes; in decode too."""
    count = case(name).plan.units
    twins = (1, count - 2)
    others = [place for place in range(count) if place not in twins]
    ours = logits(name, True, [others], twins)
    plain = logits(name, False, [sorted([*others, twins[0]])], twins)
    assert plain.std() >= 1
    assert harness.difference(ours, plain) < TOLERANCE
    other = logits(name, False, [sorted([*others[1:], *twins])], twins)
    assert harness.difference(ours, other) > SABOTAGE
