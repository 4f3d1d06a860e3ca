"""On padded and on flat pictures every score keeps the same tokens on torch, ONNX Runtime and OpenVINO.

Tokens of a picture of one colour are alike up to rounding, which differs between back-ends and may decide among them:
tokens that are kept in place of others there have their score, which parity calls a tie, and no padding is among them.
``dart`` marks what it keeps and ranks nothing: of it the padding alone is compared there.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import onnxruntime
import pytest
import torch
from flat_plans import flat_plan, replan
from test_scores_export import GRID, KEEP, ROWS, decoder_of, feeds, mixed, pruning

from luvc_export.core import graph_io
from luvc_export.export import trace
from luvc_export.export.compression import scores, spu
from luvc_export.export.llm.decoder import Decoder
from luvc_export.export.trace import simplify
from luvc_export.runtime.openvino.rewrites import choose_first_of_equals

TOKENS = GRID[0] * GRID[1]
#: One colour: what is kept in place of others has their score up to this, relative to the largest.
FLAT, TIE = "one colour", 1e-4


def sessions(decoder: Decoder, shape: Any, path: Path) -> dict[str, Any]:
    """What runs the traced graph, by name: feeds -> kept indices of the prune before layer 1."""
    model = trace.trace_decoder(decoder, shape, torch.float32)
    simplify(model)
    ir.save(model, path)
    ort = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    name = graph_io.kept_name(1)
    runners: dict[str, Any] = {"onnxruntime": lambda ort_feeds: ort.run([name], ort_feeds)[0]}
    openvino = pytest.importorskip("openvino", reason="pip install 'luvc-export[openvino]'")
    core = openvino.Core()
    read = core.read_model(path)
    assert choose_first_of_equals(openvino, read) > 0
    compiled = core.compile_model(read, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    runners["openvino"] = lambda feeds: compiled(feeds)[name]
    return runners


def pictures(count: int) -> dict[str, tuple[torch.Tensor, torch.Tensor]]:
    """Embeddings [ROWS, count, TOKENS, 64] and padding, by what they show."""
    noise = feeds(3, count)[graph_io.VISUAL_EMBEDS]
    bottom = torch.zeros(ROWS, count, TOKENS, dtype=torch.bool)
    bottom[..., 6:] = True  # fewer than are kept
    some = bottom.clone()
    some[..., 6:] = False
    some[..., -3:] = True
    return {
        "a strip beside padding": (torch.where(bottom[..., None], noise[:, :, :1], noise), bottom),
        "a little padding": (noise, some),
        FLAT: (noise[:, :, :1].expand_as(noise).contiguous(), torch.zeros_like(some)),
        f"{FLAT} beside padding": (noise[:, :, :1].expand_as(noise).contiguous(), some),
    }


def alike(rank: torch.Tensor, ours: torch.Tensor, wanted: torch.Tensor, padding: torch.Tensor) -> torch.Tensor:
    """Whether both keep the same scores [ROWS, groups, N] up to rounding, and no more padding: bool [groups]."""
    kept = [torch.gather(rank, 2, places).sort(-1).values for places in (ours, wanted)]
    empty = [torch.gather(padding, 2, places).sum(-1) for places in (ours, wanted)]
    most = rank.abs().amax(-1, keepdim=True).clamp(min=1e-30)
    marks = ((rank == 0) | (rank == 1)).all(-1)
    same = ((kept[0] - kept[1]).abs() <= TIE * most).all(-1) | marks
    return (same & (empty[0] == empty[1])).all(0)


def kept_by_all(decoder: Decoder, shape: Any, path: Path, groups: int, images: int, flat: bool = True) -> None:
    runners, wrong = sessions(decoder, shape, path), []
    ranks: list[torch.Tensor] = []
    score = decoder.score
    decoder.score = lambda ranked: ranks.append(score(ranked)) or ranks[-1]  # type: ignore[method-assign, func-returns-value]
    past = [torch.zeros(ROWS, shape.kv_heads, 0, shape.head_dim)] * (2 * decoder.plan.layers)
    caches = dict(zip(graph_io.past_names(decoder.plan.layers), past, strict=True))
    for shown, (embeds, padding) in pictures(groups * images).items():
        if FLAT in shown and not flat:
            continue
        inputs = feeds(1, groups * images)
        inputs[graph_io.VISUAL_EMBEDS] = embeds.reshape(ROWS, groups, images * TOKENS, 64)
        padding = padding.reshape(ROWS, groups, images * TOKENS)
        _, _, (wanted,) = decoder(*inputs.values(), past, visual_padding=padding)
        arrays = {n: t.numpy() for n, t in {**inputs, **caches, graph_io.VISUAL_PADDING: padding}.items()}
        for backend, run in runners.items():
            chosen = run(arrays)
            differ = sorted({int(place[1]) for place in np.argwhere(chosen != wanted.numpy())})
            tied = alike(ranks[-1], torch.from_numpy(chosen), wanted, padding)
            differ = [group for group in differ if FLAT not in shown or not tied[group]]
            wrong += [(shown, backend, differ)] if differ else []
        real = (~padding).sum(-1).clamp(max=wanted.shape[-1])
        taken = torch.gather(~padding, 2, wanted).sum(-1)
        assert torch.equal(real, taken), f"{shown}: padding is kept where a picture has tokens left"
    assert not wrong


@pytest.mark.slow(beside="calibration/test_scores_export.py::test_onnx_does_what_torch_does")
def test_all_scores_keep_the_same_on_every_back_end(tmp_path: Path) -> None:
    names = [name for name in scores.names() if name in scores.built_in()]
    decoder, shape = mixed(names)
    decoder.plan = replan(decoder.plan, padding=True)
    kept_by_all(decoder, shape, tmp_path / "decoder.onnx", len(names), 1)


@pytest.mark.slow(beside="calibration/test_scores_tie.py::test_chosen_tokens_rank_in_whole_numbers_above_the_others")
def test_quotas_rank_by_round(tmp_path: Path) -> None:
    """What rounds have chosen scored 2 and almost nothing: quotas ranked that nothing, which rounding decided."""
    plan = flat_plan(
        GRID,
        (32, 2 * KEEP),
        last_layer="full",
        score="scope",
        rho=0.5,
        steps=5,
        joint_images=2,
        quota="spread",
        padding=True,
    )
    decoder, shape = decoder_of(plan)
    kept_by_all(decoder, shape, tmp_path / "decoder.onnx", 2, 2, flat=False)  # rounding divides equal images there


def test_chosen_tokens_rank_in_whole_numbers_above_the_others() -> None:
    normed = feeds(5, 1)[graph_io.VISUAL_EMBEDS]
    for name in ("scope", "maxmin"):
        plan = pruning(name, 4)
        basis = scores.constant(plan, 1, TOKENS, 64)
        ranked = scores.ScoreInput(normed, basis, "token", KEEP, None, GRID, settings=dict(plan.llm.method.settings))
        rank = scores.find(name).score(ranked)
        above = rank[rank > 1]
        assert torch.equal(above, above.round()) and len(above) == ROWS * KEEP
        assert sorted(set(above.tolist())) == [2.0, 3.0, 4.0, 5.0]


def test_of_equals_the_first() -> None:
    score = torch.tensor([[[1.0, 3.0, 3.0, 1.0, 3.0, 1.0] * 20]])
    assert spu.select(score, 50)[0, 0].tolist() == [place for place in range(120) if place % 6 in (1, 2, 4)][:50]
