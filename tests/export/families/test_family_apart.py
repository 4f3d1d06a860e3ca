"""Tokens that will stay and tokens that will go, apart until they part: in torch, and where it is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from family_harness import case
from flat_plans import replan
from test_family_answers import chat, pictures, session

from luvc_export.core.plan import Plan
from luvc_export.core.planning import check_model
from luvc_export.errors import PlanError
from luvc_export.export.llm import choice


def parted(apart: bool = True, **changes: Any) -> Plan:
    tiny = case("qwen2_5_vl")
    units, layers = tiny.plan.units, tiny.plan.layers
    keep = (units, units, *[units // 2] * (layers - 2))
    changes = {"keep": keep, "score": "maxmin", "last_layer": "full", **changes}
    return replan(tiny.plan, apart=apart, **changes)


def ran(tmp_path: Path, plan: Plan, shown: Any) -> Any:
    """A prefill: what the prune kept, and the keys of layer 1, [visual | text]."""
    ours = session(case("qwen2_5_vl"), tmp_path, plan)
    request = ours.prepare([shown], messages=chat(1))
    step = ours.default.run(request.token_ids, ours.default.encode_images(request.images), blocks=request.blocks)
    return step.kept[2][0], step.state.cache.values[2][0].numpy()  # type: ignore[attr-defined]


def test_sides_do_not_see_each_other_and_text_sees_both() -> None:
    sides = choice.sides(torch.tensor([[[0, 2]]]), 3)
    assert sides.tolist() == [[1, -1, 1]]
    seen = choice.unparted(sides, past=1, text=1)[0, 0].int().tolist()
    assert seen == [[1, 1, 0, 1, 1], [1, 0, 1, 0, 1], [1, 1, 0, 1, 1], [1, 1, 1, 1, 1]]


def test_the_groups_differ_by_the_mask_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shown = pictures(case("qwen2_5_vl"), 1)[0]
    kept, keys = ran(tmp_path / "apart", parted(), shown)
    together = ran(tmp_path / "together", parted(False), shown)[1]
    assert not np.allclose(keys, together, atol=1e-5)
    monkeypatch.setattr(
        choice, "unparted", lambda sides, past, text: torch.ones(1, 1, sides.shape[1] + text, 1, dtype=torch.bool)
    )
    monkeypatch.setattr("luvc_export.export.llm.sight.unparted", choice.unparted)
    chosen, unmasked = ran(tmp_path / "unmasked", parted(), shown)
    assert np.array_equal(chosen, kept) and np.allclose(unmasked, together, atol=1e-5)


def test_what_cannot_be_apart_is_refused() -> None:
    units, layers = parted().units, parted().layers
    for changes, wrong in (
        ({"keep": (units // 2,) * layers}, "the first prune is before layer 0"),
        ({"keep": (units,) * layers}, "no prune chooses any"),
        ({"aggregate": True}, "merging, aggregates, samples, turns have none"),
    ):
        with pytest.raises(PlanError, match=wrong):
            parted(**changes)
    tiny = case("qwen3_5")
    count, layers = tiny.plan.units, tiny.plan.layers
    keep = (*[count] * (layers - 1), count // 2)
    plan = replan(tiny.plan, keep=keep, score="maxmin", last_layer="full", apart=True)
    with pytest.raises(PlanError, match=r"llm\.apart: layer 0 keeps a state that all tokens go through"):
        check_model(plan, tiny.family.decoder_shape(tiny.config), tiny.family.encoder_shape(tiny.config))


def test_a_plan_s_json_says_it_only_where_it_is() -> None:
    assert "apart" not in parted(False).to_json()["llm"]
    assert Plan.from_json(parted().to_json()) == parted() and parted().apart == 2
