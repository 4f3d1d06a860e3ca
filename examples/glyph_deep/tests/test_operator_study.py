"""Switches that leave operators out for visual tokens: both are `kv_only`, and the page is its figures."""

from __future__ import annotations

import json
from unittest.mock import patch

import pytest
import torch
from glyph_deep.studies.plans.instruments import MODELS, SEARCHED, SIZES, asked, load_model, open_checkpoint
from glyph_deep.studies.plans.moved import RECIPES, fitted, moved
from glyph_deep.studies.plans.operators import FIGURES, PAGE, Switches, switched, table, variants
from glyph_deep.studies.plans.recipes import request

from luvc_export.calibration.ablation.evaluator import PlanEvaluator
from luvc_export.calibration.ablation.variants import Shapes
from luvc_export.core.budgets import prefill_flops
from luvc_export.core.plan.request import LlmRequest, PlanRequest
from luvc_export.export.compression import spu


@pytest.fixture(scope="module")
def engine() -> PlanEvaluator:
    """Sixteen questions of glyph_deep on plain grounds."""
    opened = open_checkpoint(str(MODELS["glyph_deep"]))
    return PlanEvaluator(opened, load_model(opened), asked("glyph_deep", "plain", 16, True), True)


@pytest.fixture(scope="module")
def shapes(engine: PlanEvaluator) -> Shapes:
    """Of its model at the size of their pictures."""
    family, config = engine.checkpoint.family, engine.checkpoint.config
    unit, (height, width) = family.unit_pixels(config), SIZES["plain"]
    return Shapes((height // unit, width // unit), family.decoder_shape(config), family.encoder_shape(config))


def off(a: torch.Tensor, b: torch.Tensor) -> float:
    """Largest difference."""
    return float((a - b).abs().max())


def test_both_off_is_kv_only_in_answers_and_flops(engine: PlanEvaluator, shapes: Shapes) -> None:
    """And alone, or in the front, or as stale rows with nobody at rest, they are something else or nothing."""
    llm = shapes.llm

    def seen(switches: Switches, kv_only: tuple[int, ...] = ()) -> torch.Tensor:
        with switched(switches, shapes):
            return torch.cat(engine.predictions(shapes.none().changed(kv_only=kv_only), range(16)))

    front = frozenset(range(4))
    whole, frozen = seen(Switches()), seen(Switches(), tuple(front))
    assert off(seen(Switches(front, front)), frozen) < 1e-4 < 1 < off(whole, frozen)
    assert min(off(seen(each), frozen) for each in (Switches(attention=front), Switches(mlp=front))) > 0.1
    assert (
        off(seen(Switches(stale_from=2, share=1.0)), whole)
        < 1e-4
        < 0.1
        < off(seen(Switches(stale_from=1, share=0.1)), whole)
    )
    keep = (shapes.units,) * llm.layers
    assert Switches(front, front).flops(llm, shapes.units, 64) == sum(prefill_flops(llm, keep, 64, kv_only=front))
    # who goes on working beside stale rows is whom the plan's own prune keeps
    chosen, select = dict[str, list[torch.Tensor]](stale=[], pruned=[]), spu.select
    solved = shapes.solved(PlanRequest(LlmRequest("staged")))
    share = solved.keep[1] / shapes.units
    for name, switches, plan in (
        ("stale", Switches(stale_from=1, share=share), shapes.none()),
        ("pruned", Switches(), solved),
    ):
        noted = chosen[name].append
        watched = patch.object(spu, "select", lambda *scored, noted=noted: noted(best := select(*scored)) or best)
        with watched, switched(switches, shapes):
            engine.predictions(plan, range(16))
    pairs = list(zip(chosen["stale"], chosen["pruned"], strict=True))
    assert pairs and all(torch.equal(*pair) for pair in pairs)
    mlp = 2 * shapes.units * 3 * llm.hidden * llm.layer(0).intermediate
    assert sum(prefill_flops(llm, keep, 64)) - Switches(mlp=frozenset({0})).flops(llm, shapes.units, 64) == mlp
    assert Switches(stale_from=4, share=0.0).flops(llm, 10, 64) < Switches(stale_from=4, share=0.5).flops(llm, 10, 64)


def test_the_page_is_its_figures() -> None:
    """Every variant has a row of every model."""
    rows = json.loads(FIGURES.read_text(encoding="utf-8"))
    assert [row["off"] for row in rows] == [name for name, _ in variants(36)]
    assert all({*SEARCHED} <= {*row} for row in rows)
    assert table(rows) in PAGE.read_text(encoding="utf-8")


def test_rows_that_move_by_nothing_stand_still(engine: PlanEvaluator, shapes: Shapes) -> None:
    """By the mean they are something else, by ten of it further off."""
    plan = shapes.solved(request(RECIPES[0]))
    layers, working = plan.llm.kv_only, plan.changed(kv_only=())
    changes = fitted(engine, working, layers)
    assert {*changes.rows} == {*layers} and 0.1 < changes.explained() < 0.9

    def seen(by: float) -> torch.Tensor:
        with moved(layers, {number: by * mean for number, mean in changes.means().items()}):
            return torch.cat(engine.predictions(working, range(16)))

    still, own = (torch.cat(engine.predictions(plan.changed(sampled=few), range(16))) for few in (0, 8))
    with moved(layers, changes):  # every token is sampled, where eight were
        assert 1e-2 < off(torch.cat(engine.predictions(working, range(16))), own) < off(own, still)
    assert off(seen(0.0), still) < 1e-4 < 1e-2 < off(seen(1.0), still) < off(seen(10.0), still)
