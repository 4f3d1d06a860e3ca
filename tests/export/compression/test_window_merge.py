"""Merging inside windows: against pairs joined one window at a time, and what must stay true of any pass."""

from __future__ import annotations

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from luvc_export.core.plan.merging import MergePass, planned
from luvc_export.export.compression import oim


def _units(rows: int, columns: int) -> oim.Units:
    return oim.start(torch.randn(2, rows, columns, 5, generator=torch.Generator().manual_seed(rows * 31 + columns)))


def _alone(x: Tensor, step: MergePass) -> Tensor:
    return oim.merge(oim.start(x), step).x


@settings(deadline=None, max_examples=25)
@given(st.integers(4, 11), st.integers(4, 11), st.integers(0, 2), st.integers(0, 2))
def test_every_window_merges_as_if_it_were_alone(rows: int, columns: int, less: int, fewer: int) -> None:
    units, (step,) = _units(rows, columns), planned((rows, columns), (MergePass(0, less, fewer, 4),))
    merged = oim.merge_planned(units, step)
    begins = [axis.edges for axis in step.before]
    ends = [axis.edges for axis in step.after]
    for i, gone in enumerate(step.before[0].removed(less)):
        for j, lost in enumerate(step.before[1].removed(fewer)):
            window = units.x[:, begins[0][i] : begins[0][i + 1], begins[1][j] : begins[1][j + 1]]
            expected = _alone(window, MergePass(0, gone, lost))
            assert torch.equal(merged.x[:, ends[0][i] : ends[0][i + 1], ends[1][j] : ends[1][j + 1]], expected)


@settings(deadline=None, max_examples=15)
@given(st.integers(2, 11), st.integers(2, 11))
def test_mass_places_and_means_hold_over_two_passes_inside_windows(rows: int, columns: int) -> None:
    units = start = _units(rows, columns)
    for step in planned((rows, columns), (MergePass(0, 1, 1, 4), MergePass(1, 1, 0, 4))):
        units = oim.merge_planned(units, step)
    tokens = units.sizes[0].numel()
    for image in range(2):
        into = units.merged_into[image]
        sizes = torch.bincount(into, minlength=tokens).float()
        assert torch.equal(sizes, units.sizes[image].flatten())
        for before, after in ((start.x, units.x), (start.positions, units.positions)):
            flat = before[image].flatten(0, 1)
            mean = torch.zeros(tokens, flat.shape[1]).index_add(0, into, flat) / sizes[:, None]
            assert torch.allclose(mean, after[image].flatten(0, 1), atol=1e-5)


def test_windows_lose_quotas_and_edges_in_proportion() -> None:
    (step,) = planned((10, 8), (MergePass(0, 2, 1, 4),))
    assert [axis.lines for axis in step.after] == [(2, 2, 1), (3, 3)]
    assert [(box.down, box.across, box.height, box.width, box.rows, box.columns) for box in step.boxes] == [
        (2, 2, 4, 4, 2, 1),
        (1, 2, 2, 4, 1, 1),
    ]
