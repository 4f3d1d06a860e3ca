"""A learned scorer: what its file may be, what it computes, and what names it."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import pytest
import torch
from flat_plans import flat_plan, replan
from safetensors.torch import save

from luvc_export.core.plan import Plan
from luvc_export.errors import PlanError
from luvc_export.export.compression import scores
from luvc_export.export.compression.scorer_file import MOST_BYTES, file_name, known, open_scorer, remember

DRAW = torch.Generator().manual_seed(0)
QUERY, KEY = torch.randn(2, 5, 16, generator=DRAW)
NORMED = torch.randn(2, 3, 12, 16, generator=DRAW)


def written(folder: Path, tensors: dict[str, torch.Tensor]) -> Path:
    path = folder / "scorer.safetensors"
    path.write_bytes(save({name: tensor.clone() for name, tensor in tensors.items()}))
    return path


def plan_of(sha256: str, **changes: Any) -> Plan:
    return flat_plan(
        **{"grid": (3, 4), "keep": (4, 2), "last_layer": "full", "score": "learned", "scorer": sha256, **changes}
    )


def test_it_is_the_mean_of_the_products_with_every_key(tmp_path: Path) -> None:
    scorer = open_scorer(written(tmp_path, {"query": QUERY, "key": KEY.half()}))
    assert scorer.sha256 == hashlib.sha256(scorer.data).hexdigest() and known(scorer.sha256) is scorer
    basis = scores.constant(plan_of(scorer.sha256), 1, 12, 16)
    products = scores.find("learned").score(scores.ScoreInput(NORMED, basis, "token"))
    every = (NORMED @ QUERY.T) @ (NORMED @ KEY.half().float().T).transpose(2, 3)
    torch.testing.assert_close(products, every.mean(3), atol=1e-4, rtol=1e-4)
    padding = torch.zeros(2, 3, 12, dtype=torch.bool)
    padding[..., 8:] = True
    padded = scores.find("learned").score(scores.ScoreInput(NORMED, basis, "token", padding=lambda: padding))
    torch.testing.assert_close(padded * 12 / 8, every[..., :8].mean(3), atol=1e-4, rtol=1e-4)


def test_a_layer_may_have_its_own(tmp_path: Path) -> None:
    scorer = open_scorer(
        written(tmp_path, {"query": QUERY, "key": KEY, "query.1": KEY.clone(), "key.1": QUERY.clone()})
    )
    assert torch.equal(scorer.of(0, 16), torch.stack([QUERY, KEY]))
    assert torch.equal(scorer.of(1, 16), torch.stack([KEY, QUERY]))


@pytest.mark.parametrize(
    ("tensors", "refusal"),
    [
        ({"query": QUERY}, "got: no key"),
        ({"query": QUERY, "key": KEY, "query.1": QUERY.clone()}, "got: no key.1"),
        ({"query": QUERY, "key": KEY[:, :9].clone()}, r"query \[5, 16\], key \[5, 9\]"),
        ({"query": QUERY, "key": KEY, "bias": KEY}, "'bias', float32"),
        ({"query": QUERY[0], "key": KEY[0]}, r"float32 \[16\]"),
        ({"query": QUERY.long(), "key": KEY.long()}, "int64"),
        ({"query": QUERY / 0, "key": KEY}, "is not finite"),
        ({}, "no tensors"),
    ],
)
def test_what_is_no_scorer_is_refused(tensors: dict[str, torch.Tensor], refusal: str, tmp_path: Path) -> None:
    with pytest.raises(PlanError, match=refusal):
        open_scorer(written(tmp_path, tensors))


def test_what_is_no_safetensors_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "scorer.safetensors"
    with pytest.raises(PlanError, match="there is no such scorer"):
        open_scorer(path)
    torch.save({"query": QUERY, "key": KEY}, path)  # a pickle
    with pytest.raises(PlanError, match="this is no safetensors file"):
        open_scorer(path)
    whole = save({"query": QUERY, "key": KEY})
    for broken in (whole[:-1], whole[:40], whole + b"x", b"\xff" * 8 + whole[8:]):
        path.write_bytes(broken)
        with pytest.raises(PlanError, match="this is no safetensors file"):
            open_scorer(path)
    for size in (3, MOST_BYTES + 1):
        with path.open("wb") as file:
            file.truncate(size)
        with pytest.raises(PlanError, match="not of this size"):
            open_scorer(path)


def test_a_plan_and_its_scorer_must_fit() -> None:
    scorer = remember(save({"query.0": QUERY, "key.0": KEY}), "test")
    plan = plan_of(scorer.sha256)
    assert Plan.from_json(plan.to_json()) == plan and not plan.reads_text
    with pytest.raises(PlanError, match=r"rows of 16\n.*rows of 64"):
        scores.constant(plan, 0, 12, 64)
    with pytest.raises(PlanError, match=r"has not learned to prune before this layer\n.*plan.keep\[1\]"):
        scores.constant(plan, 0, 12, 16)
    scorer.check(replan(plan, keep=(4, 4)), 16)
    far = remember(save({"query.7": QUERY, "key.7": KEY, "query": QUERY.clone(), "key": KEY.clone()}), "test")
    with pytest.raises(PlanError, match=r"names a layer that the model has not\n.*\n.*query\.7"):
        far.check(plan, 16)
    with pytest.raises(PlanError, match=f"not at hand(.|\n)*{file_name('0' * 64)}"):
        scores.constant(plan_of("0" * 64), 0, 12, 16)


@pytest.mark.parametrize(
    ("score", "settings", "refusal"),
    [
        ("learned", {}, "scorer: score 'learned' needs it"),
        ("norm", {"scorer": "0" * 64}, "scorer: score 'norm' has no such setting"),
        ("learned", {"scorer": "../x"}, "scorer: got '../x', expected the sha256 of its file"),
        ("learned", {"scorer": 3}, "scorer: got 3"),
        ("learned", {"scorer": "A" * 64}, "scorer: got 'AAAA"),
    ],
)
def test_only_a_learned_plan_names_a_file(score: str, settings: dict[str, Any], refusal: str) -> None:
    with pytest.raises(PlanError, match=refusal):
        scores.method(score, **settings)
