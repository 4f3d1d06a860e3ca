"""Scores of clips: what did not change goes first, by hand-made clips."""

from __future__ import annotations

from pathlib import Path

import onnx_ir as ir
import pytest
import torch
from slow_cases import slow_but
from torch import Tensor, nn

from luvc_export.core.plan import Quota
from luvc_export.export import trace
from luvc_export.export.compression import frame_outliers, quotas, scores, spu
from luvc_export.export.compression.frame_references import dycoke_references, evs_references
from luvc_export.export.compression.scores import holitom
from luvc_export.export.compression.scores._even import even
from luvc_export.export.compression.scores.base import ScoreInput
from luvc_export.export.trace import simplify


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


def test_vidcom2_keeps_what_is_unlike_its_clip() -> None:
    """In the channels that vary least all tokens but one are alike; the others are noise."""
    shown = torch.ones(1, 1, 24, 8)
    shown[..., :4] = torch.randn(24, 4, generator=torch.Generator().manual_seed(0))
    shown[0, 0, 20, 4:6] = 0.0
    assert ranked("vidcom2", shown, 4, 1) == {20}


def test_holitom_keeps_still_places_once_in_a_window() -> None:
    """Places 0 to 2 stand still through four frames, 3 to 5 are other ones in each."""
    shown = clip(8)
    draw = torch.Generator().manual_seed(1)
    for frame in range(8):
        shown[0, 0, 6 * frame + 3 : 6 * frame + 6] = torch.randn(3, 8, generator=draw)
    settings = dict(scores.method("holitom").settings)
    inputs = ScoreInput(shown, None, "token", 12, images=8, settings=settings)
    chosen = scores.find("holitom").score(inputs)[0, 0].reshape(8, 6) == 2
    assert chosen[[0, 4], :3].all() and not chosen[[1, 2, 3, 5, 6, 7], :3].any()
    assert chosen[:, 3:].sum().item() == 6 and chosen.sum().item() == 12


@pytest.mark.parametrize(("frames", "each", "keep"), [(8, 36, 72), (3, 8, 5), (1, 16, 10), (7, 5, 34), (6, 4, 23)])
def test_holitom_divides_a_budget_exactly(frames: int, each: int, keep: int) -> None:
    settings = dict(scores.method("holitom").settings)
    windows = holitom.shares(frames, each, keep, settings)
    assert sum(still + sum(counts) for _, _, still, counts in windows) == keep
    assert all(count + still <= each for _, _, still, counts in windows for count in counts)
    shown = torch.randn(1, 2, frames * each, 8, generator=torch.Generator().manual_seed(2))
    inputs = ScoreInput(shown, None, "token", keep, images=frames, settings=settings)
    assert ((scores.find("holitom").score(inputs) == 2).sum(-1) == keep).all()


def test_centres_are_dense_and_apart() -> None:
    """Two clusters and a token alone: one of each cluster leads, near copies come last."""
    draw = torch.Generator().manual_seed(0)
    one, two = torch.eye(8)[0], torch.eye(8)[1]
    tokens = torch.stack([one] * 8 + [two] * 8) + 0.02 * torch.randn(16, 8, generator=draw)
    unit = torch.nn.functional.normalize(tokens, dim=-1)[None, None]
    best = holitom.centres(unit)[0, 0].topk(2).indices
    assert {int(place) // 8 for place in best} == {0, 1}


@pytest.mark.parametrize("name", ["evs", "dycoke"])
def test_of_a_picture_tokens_are_taken_evenly(name: str) -> None:
    assert ranked(name, clip(1, 12), 1, 4) == {1, 4, 7, 10}


def test_vidcom2_looks_at_the_channels_that_vary_least() -> None:
    """A channel that varies much says nothing, however far a token stands out in it."""
    one_hot = torch.ones(1, 1, 1, 6)
    normed = torch.ones(1, 1, 6, 4)
    normed[..., 3] = torch.tensor([0.0, 9.0, -9.0, 4.0, 50.0, -30.0])
    normed[..., 2] = torch.tensor([0.0, 7.0, -9.0, 4.0, 40.0, -30.0])
    like = frame_outliers.alike(normed, one_hot)
    assert like.std() == 0


class Chooses(nn.Module):
    """What is kept of pictures that share a budget, or of one alone."""

    def __init__(self, name: str, images: int) -> None:
        super().__init__()
        self.name, self.images = name, images
        self.quota: Quota = "vidcom2" if name == "vidcom2" else "v-cast"

    def forward(self, normed: Tensor, index: Tensor) -> Tensor:
        if self.images == 1:
            inputs = ScoreInput(normed, even(normed.shape[2], 4), "token", 4)
            return spu.select(scores.find(self.name).score(inputs), 4)
        own = quotas.members(index, self.images, index.shape[2] // self.images, padded=False)
        quota = quotas.quotas(quotas.weights(self.quota, normed, own), own, 4)
        score = normed[..., 0].tanh()
        if self.name in ("vidcom2", "holitom"):
            settings = dict(scores.method(self.name).settings)
            inputs = ScoreInput(normed, None, "token", 4, images=self.images, settings=settings)
            score = scores.find(self.name).score(inputs)
        return spu.select(quotas.keys(score, own, quota), 4)


@pytest.mark.parametrize(
    ("name", "images"), slow_but(["evs", "v-cast"], [("evs", 1), ("v-cast", 2), ("vidcom2", 3), ("holitom", 3)])
)
def test_choices_keep_their_rows_in_openvino(tmp_path: Path, name: str, images: int) -> None:
    """Where nothing is read, it folded them to one row for any batch: memory was overrun by three, no row refused."""
    openvino = pytest.importorskip("openvino", reason="pip install 'luvc-export[openvino]'")
    batch, path, choose = {0: torch.export.Dim("batch")}, tmp_path / "choice.onnx", Chooses(name, images).eval()
    shown = torch.randn(3, 1, 12, 8, generator=torch.Generator().manual_seed(3))
    asked = shown, torch.arange(12).expand(3, 1, 12).contiguous()
    graph = trace._trace(choose, asked, (batch, batch), ["normed", "index"], ["kept"], marked=False)
    simplify(graph)
    ir.save(graph, path)
    model = openvino.Core().compile_model(path, "CPU")
    for rows in (3, 1, 0):
        some = [part[:rows] for part in asked]
        wanted = choose(*some).tolist()
        read = {port.any_name for port in model.inputs}
        feeds = {name: part.numpy() for name, part in zip(("normed", "index"), some, strict=True) if name in read}
        assert model(feeds)[0].tolist() == wanted and len(wanted) == rows
