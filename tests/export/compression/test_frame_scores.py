"""Scores of clips: what did not change goes first, by hand-made clips."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from luvc_export.export.compression import scores
from luvc_export.export.compression.frame_references import dycoke_references, evs_references
from luvc_export.export.compression.scores._even import even
from luvc_export.export.compression.scores.base import ScoreInput


def clip(frames: int, tokens: int = 6, width: int = 8) -> Tensor:
    """The same frame over and over, [1, 1, F * n, D]."""
    still = torch.randn(tokens, width, generator=torch.Generator().manual_seed(0))
    return still.repeat(frames, 1)[None, None]


def ranked(name: str, normed: Tensor, frames: int, keep: int) -> set[int]:
    basis = even(normed.shape[2], keep)
    score = scores.find(name).score(ScoreInput(normed, basis, "token", keep, images=frames))
    return set(score[0, 0].topk(keep).indices.tolist())


def test_evs_keeps_the_first_frame_and_what_changed() -> None:
    shown = clip(4)
    shown[0, 0, [8, 22]] = -shown[0, 0, [8, 22]]  # place 2 changes in frame 1 and back, place 4 in frame 3
    assert ranked("evs", shown, 4, 9) == {*range(6), 8, 14, 22}


def test_dycoke_compares_within_windows_of_four() -> None:
    assert dycoke_references(6) == [None, 0, 0, 2, None, 4]
    assert evs_references(3) == [None, 0, 1]
    shown = clip(4)
    shown[0, 0, [8, 22]] = -shown[0, 0, [8, 22]]  # frame 2 is compared with 0, where place 2 is as before
    assert ranked("dycoke", shown, 4, 8) == {*range(6), 8, 22}


@pytest.mark.parametrize("name", ["evs", "dycoke"])
def test_of_a_picture_tokens_are_taken_evenly(name: str) -> None:
    assert ranked(name, clip(1, 12), 1, 4) == {1, 4, 7, 10}
