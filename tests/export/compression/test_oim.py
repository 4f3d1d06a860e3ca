"""OIM against a slow explicit merge with Python loops and sets."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from luvc_export.core.plan import MergePass
from luvc_export.export.compression import oim


def explicit_groups(x: Tensor, removed: int) -> list[list[int]]:
    """Members of every kept token of one row [W, C], in order; written from the specification, one token at a time."""
    width = x.shape[0]

    def cosine(a: int, b: int) -> float:
        return float(torch.nn.functional.cosine_similarity(x[a].double(), x[b].double(), dim=0))

    wishes = []
    for odd in range(1, width, 2):
        sides = [(cosine(odd, odd - 1), odd - 1)] + ([(cosine(odd, odd + 1), odd + 1)] if odd + 1 < width else [])
        best = max(sides, key=lambda side: side[0])
        wishes.append((best[0], odd, best[1]))
    joined = {odd: target for _, odd, target in sorted(wishes, reverse=True)[:removed]}
    return [
        sorted([place, *(odd for odd, target in joined.items() if target == place)])
        for place in range(width)
        if place not in joined
    ]


def random_grid(rows: int, columns: int, seed: int, channels: int = 6, batch: int = 2) -> Tensor:
    return torch.randn(batch, rows, columns, channels, generator=torch.Generator().manual_seed(seed))


sizes = st.integers(1, 11)


@given(sizes, st.integers(0, 5), st.integers(0, 10_000))
def test_assignment_equals_the_explicit_merge(width: int, removed: int, seed: int) -> None:
    removed = min(removed, width // 2)
    x = random_grid(3, width, seed)[0]
    if removed == 0:
        return
    assignment = oim.assign(x, removed)
    assert assignment.shape == (3, width - removed, width)
    for row in range(3):
        groups = [torch.nonzero(line).flatten().tolist() for line in assignment[row]]
        assert groups == explicit_groups(x[row], removed)


@given(sizes, sizes, st.integers(0, 5), st.integers(0, 5), st.integers(0, 10_000))
def test_mass_and_picture_are_conserved(rows: int, columns: int, less: int, fewer: int, seed: int) -> None:
    x = random_grid(rows, columns, seed)
    units = oim.start(x)
    for step in (MergePass(0, min(less, rows // 2), min(fewer, columns // 2)), MergePass(0, 0, 0)):
        units = oim.merge(units, step)
    kept_rows, kept_columns = rows - min(less, rows // 2), columns - min(fewer, columns // 2)
    assert units.x.shape == (2, kept_rows, kept_columns, 6)
    torch.testing.assert_close(units.sizes.sum((1, 2)), torch.full((2,), float(rows * columns)))
    torch.testing.assert_close((units.x * units.sizes[..., None]).sum((1, 2)), x.sum((1, 2)), atol=1e-4, rtol=1e-4)
    for image in range(2):
        counts = torch.bincount(units.merged_into[image], minlength=kept_rows * kept_columns)
        assert torch.equal(counts.float(), units.sizes[image].flatten())
        for token in range(kept_rows * kept_columns):
            members = torch.nonzero(units.merged_into[image] == token).flatten()
            mean = x[image].reshape(-1, 6)[members].mean(0)
            place = torch.stack([members // columns, members % columns], -1).float().mean(0)
            row, column = divmod(token, kept_columns)
            torch.testing.assert_close(units.x[image, row, column], mean, atol=1e-4, rtol=1e-4)
            torch.testing.assert_close(units.positions[image, row, column], place, atol=1e-4, rtol=1e-4)


def test_no_pass_changes_nothing() -> None:
    units = oim.start(random_grid(3, 5, 0))
    after = oim.merge(units, MergePass(0, 0, 0))
    for before, now in zip(units, after, strict=True):
        assert torch.equal(before, now)


def test_even_and_odd_widths_merge_down_to_the_floor() -> None:
    for width in (2, 3, 4, 5, 8, 9):
        units = oim.merge(oim.start(random_grid(1, width, width)), MergePass(0, 0, width // 2))
        assert units.x.shape[2] == width - width // 2


def test_max_keeps_the_largest_magnitude_per_channel() -> None:
    x = random_grid(2, 7, 3)
    units = oim.merge(oim.start(x), MergePass(0, 0, 3), mode="max")
    for image in range(2):
        for row in range(2):
            for column, group in enumerate(explicit_groups(x[image, row], 3)):
                members = x[image, row, group]
                best = members[members.abs().argmax(0), torch.arange(6)]
                assert torch.equal(units.x[image, row, column], best)


def test_several_positions_are_original_ones_spread_over_the_members() -> None:
    x = random_grid(1, 8, 5, batch=1)
    units = oim.merge(oim.start(x, copies=4), MergePass(0, 0, 4))
    for column, group in enumerate(explicit_groups(x[0, 0], 4)):
        carried = units.copies[0, 0, column].reshape(4, 2)
        assert carried[:, 0].unique().tolist() == [0]
        assert carried[:, 1].int().tolist() == [group[len(group) * slot // 4] for slot in range(4)]


def test_half_precision_hidden_states_keep_fp32_bookkeeping() -> None:
    units = oim.merge(oim.start(random_grid(6, 6, 1).half()), MergePass(0, 2, 2))
    assert units.x.dtype == torch.float16
    assert units.sizes.dtype == units.positions.dtype == torch.float32


@pytest.mark.parametrize("removed", [1, 3])
def test_identical_tokens_still_give_the_planned_count(removed: int) -> None:
    assignment = oim.assign(torch.ones(2, 7, 4), removed)
    assert assignment.shape == (2, 7 - removed, 7)
    assert torch.equal(assignment.sum(1), torch.ones(2, 7))


def groups_with_padding(x: Tensor, void: list[bool], removed: int) -> list[list[int]]:
    """As ``explicit_groups`` where some tokens are padding: pairs of it first, from the left, pairs across last."""
    width = x.shape[0]

    def rank(a: int, b: int) -> float:
        if void[a] and void[b]:
            return 1000.0 - min(a, b)
        if void[a] or void[b]:
            return -1000.0 - min(a, b)
        return float(torch.nn.functional.cosine_similarity(x[a].double(), x[b].double(), dim=0))

    wishes = []
    for odd in range(1, width, 2):
        sides = [(rank(odd, odd - 1), odd - 1)] + ([(rank(odd, odd + 1), odd + 1)] if odd + 1 < width else [])
        best = max(sides, key=lambda side: side[0])
        wishes.append((best[0], odd, best[1]))
    joined = {odd: target for _, odd, target in sorted(wishes, reverse=True)[:removed]}
    return [
        sorted([place, *(odd for odd, target in joined.items() if target == place)])
        for place in range(width)
        if place not in joined
    ]


@given(sizes, st.integers(1, 5), st.integers(0, 11), st.integers(0, 11), st.integers(0, 10_000))
def test_padding_merges_first_and_across_the_edge_last(width: int, removed: int, a: int, b: int, seed: int) -> None:
    removed = min(removed, width // 2)
    if removed == 0:
        return
    x, void = random_grid(1, width, seed)[:1, 0], [not min(a, b) <= place < max(a, b) for place in range(width)]
    weight = torch.where(torch.tensor(void), oim.PADDING, 1.0)[None, :, None]
    line = oim.assign(x, removed, weight)[0]
    assert [torch.nonzero(row).flatten().tolist() for row in line] == groups_with_padding(x[0], void, removed)


@given(st.integers(2, 9), st.integers(2, 9), st.integers(0, 10_000))
def test_padding_leaves_no_trace_in_the_picture(rows: int, columns: int, seed: int) -> None:
    """Whatever the padding holds, and whatever must merge with it, tokens with picture are the same."""
    generator = torch.Generator().manual_seed(seed)
    top, left = (int(torch.randint(0, size, (), generator=generator)) for size in (rows, columns))
    padding = torch.ones(1, rows, columns, dtype=torch.bool)
    padding[:, top : top + 1 + rows // 2, left : left + 1 + columns // 2] = False
    x = random_grid(rows, columns, seed, batch=1)
    merged = []
    for void in (x, 50 * random_grid(rows, columns, seed + 1, batch=1)):
        units = oim.start(torch.where(padding[..., None], void, x), padding=padding)
        for step in (MergePass(0, rows // 2, columns // 2), MergePass(0, 0, 0)):
            units = oim.merge(units, step, padded=True)
        merged.append(units)
    one, other = merged
    picture = one.sizes > oim.HALF
    assert torch.equal(one.merged_into, other.merged_into)
    assert picture.any() and torch.equal(picture, other.sizes > oim.HALF)
    torch.testing.assert_close(one.x[picture], other.x[picture], atol=1e-4, rtol=1e-4)
    assert not torch.allclose(one.x[~picture], other.x[~picture]) or not (~picture).any()
    shown = torch.zeros(picture.numel(), dtype=torch.bool)
    shown[one.merged_into[~padding.flatten(1)]] = True
    assert torch.equal(shown.reshape(picture.shape), picture), "sizes say which tokens show picture"


def test_without_padding_the_rule_changes_nothing() -> None:
    x = random_grid(6, 7, 4)
    plain, padded = (
        oim.merge(oim.start(x, padding=void), MergePass(0, 2, 3), padded=void is not None)
        for void in (None, torch.zeros(2, 6, 7, dtype=torch.bool))
    )
    for before, now in zip(plain, padded, strict=True):
        assert torch.equal(before, now)
