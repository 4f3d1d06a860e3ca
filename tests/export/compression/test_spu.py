from __future__ import annotations

import pytest
import torch
from flat_plans import flat_plan
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from luvc_export.core.plan import MergePass
from luvc_export.errors import PlanError
from luvc_export.export.compression import scores, spu


def fft_lowpass(z: Tensor, rho: float, dim: int) -> Tensor:
    """Ideal low-pass through torch.fft."""
    spectrum = torch.fft.rfft(z.double(), dim=dim)
    frequency = torch.arange(spectrum.shape[dim])
    passes = (frequency <= spu.cutoff(z.shape[dim], rho)).reshape(
        [-1 if d == dim % z.dim() else 1 for d in range(z.dim())]
    )
    return torch.fft.irfft(spectrum * passes, n=z.shape[dim], dim=dim).float()


lengths, shares = st.integers(1, 65), st.floats(0.02, 1.0)


@given(lengths, shares, st.integers(0, 1000))
def test_lowpass_is_the_fft_one(length: int, rho: float, seed: int) -> None:
    z = torch.randn(2, 3, length, 5, generator=torch.Generator().manual_seed(seed))
    torch.testing.assert_close(
        spu.lowpass(z, spu.lowpass_basis(length, rho)), fft_lowpass(z, rho, 2), atol=1e-5, rtol=0
    )


@given(lengths, shares)
def test_basis_is_orthonormal(length: int, rho: float) -> None:
    basis = spu.lowpass_basis(length, rho)
    assert basis.shape == (length, min(2 * spu.cutoff(length, rho) + 1, length))
    torch.testing.assert_close(basis.T @ basis, torch.eye(basis.shape[1]), atol=1e-5, rtol=0)


def test_two_dimensional_basis_filters_both_axes() -> None:
    z = torch.randn(1, 1, 6 * 5, 4, generator=torch.Generator().manual_seed(0))
    smooth = spu.lowpass(z, spu.lowpass_basis_2d(6, 5, 0.5)).reshape(1, 1, 6, 5, 4)
    expected = fft_lowpass(fft_lowpass(z.reshape(1, 1, 6, 5, 4), 0.5, 2), 0.5, 3)
    torch.testing.assert_close(smooth, expected, atol=1e-5, rtol=0)


def test_no_image_gives_no_rows() -> None:
    none = torch.zeros(2, 0, 7, 4)
    assert spu.lowpass(none, spu.lowpass_basis(7, 0.5)).shape == (2, 0, 7, 4)
    index = spu.select(torch.zeros(2, 0, 7), 3)
    assert index.shape == (2, 0, 3)
    kept = spu.gather(none.flatten(1, 2), spu.flat_index(index, 7), groups=0, tokens=7, keep=3)
    assert kept.shape == (2, 0, 4)


@given(st.integers(1, 30), st.data())
def test_select_keeps_the_best_in_order(tokens: int, data: st.DataObject) -> None:
    keep = data.draw(st.integers(0, tokens))
    score = torch.rand(2, 3, tokens, generator=torch.Generator().manual_seed(tokens))
    index = spu.select(score, keep)
    assert index.shape == (2, 3, keep)
    for row, chosen in zip(score.reshape(6, tokens), index.reshape(6, keep), strict=True):
        expected = sorted(sorted(range(tokens), key=lambda place: -float(row[place]))[:keep])
        assert chosen.tolist() == expected


def test_gather_moves_each_image_by_its_own_indices() -> None:
    values = torch.arange(2 * 3 * 4).reshape(2, 12)[..., None].float()
    index = torch.tensor([[[0, 3], [1, 2], [0, 1]], [[2, 3], [0, 2], [1, 3]]])
    kept = spu.gather(values, spu.flat_index(index, 4), groups=3, tokens=4, keep=2)
    expected = [[0, 3, 5, 6, 8, 9], [14, 15, 16, 18, 21, 23]]
    assert kept[..., 0].int().tolist() == expected


def given_input(axis: str = "token") -> tuple[scores.ScoreInput, Tensor]:
    z = torch.randn(1, 2, 20, 8, generator=torch.Generator().manual_seed(1))
    basis = spu.lowpass_basis(20 if axis == "token" else 8, 0.3)
    return scores.ScoreInput(z, basis, axis), fft_lowpass(z, 0.3, 2 if axis == "token" else 3)


@pytest.mark.parametrize("axis", ["token", "channel"])
def test_scores_are_the_norms_they_say(axis: str) -> None:
    inputs, smooth = given_input(axis)
    z = inputs.normed
    torch.testing.assert_close(scores.find("low").score(inputs), smooth.norm(dim=-1), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(scores.find("residual").score(inputs), (z - smooth).norm(dim=-1), atol=1e-5, rtol=1e-5)
    expected = smooth.norm(dim=-1) / z.norm(dim=-1)
    torch.testing.assert_close(scores.find("ratio").score(inputs), expected, atol=1e-5, rtol=1e-5)


def test_unknown_score_suggests() -> None:
    with pytest.raises(PlanError, match="did you mean 'residual'"):
        scores.find("residuals")


def test_basis_follows_the_plan() -> None:
    plan = flat_plan((6, 5), (25, 25, 10, 0), (MergePass(1, 1, 0),), spectrum="2d", rho=0.5)
    assert torch.equal(scores.constant(plan, 2, 25, 8), spu.lowpass_basis_2d(5, 5, 0.5))
    assert torch.equal(scores.constant(plan, 3, 10, 8), spu.lowpass_basis(10, 0.5)), "the grid is broken after a prune"
    channel = flat_plan((6, 5), (30, 10, 0), axis="channel", rho=0.5)
    assert torch.equal(scores.constant(channel, 1, 30, 8), spu.lowpass_basis(8, 0.5))


def test_padding_is_kept_last_and_in_order() -> None:
    score = torch.tensor([[[5.0, 9.0, 1.0, 7.0, 3.0]]])
    index = spu.mark_padding(torch.arange(5).expand(1, 1, 5), torch.tensor([[[False, True, False, True, False]]]))
    assert index.tolist() == [[[0, -2, 2, -4, 4]]]
    lowered = spu.padding_last(score, index)
    kept = [spu.select(lowered, keep)[0, 0].tolist() for keep in range(1, 6)]
    assert kept == [[0], [0, 4], [0, 2, 4], [0, 1, 2, 4], [0, 1, 2, 3, 4]]
    assert torch.equal(lowered[0, 0, [0, 2, 4]], score[0, 0, [0, 2, 4]]), "scores of the picture stay what they are"
    assert spu.unmark(index).tolist() == [[[0, 1, 2, 3, 4]]]


def test_the_largest_span_of_padding_still_has_an_order() -> None:
    tokens = 8192 * 8192
    lowered = spu.padding_last(torch.zeros(1, 1, 3), torch.tensor([[[-1, -(2**20), -tokens]]]))
    assert lowered.isfinite().all() and lowered[0, 0].diff().max() < 0
