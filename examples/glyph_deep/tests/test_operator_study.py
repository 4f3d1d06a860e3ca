"""Switches that leave operators out for visual tokens: both are `kv_only`, and the page is its figures."""

from __future__ import annotations

import json
from unittest.mock import patch

import torch
from glyph_deep.studies.plans.instruments import MODELS, SEARCHED, SIZES, asked, load_model, open_checkpoint
from glyph_deep.studies.plans.operators import FIGURES, PAGE, Switches, switched, table, variants

from luvc_export.calibration.ablation.evaluator import PlanEvaluator
from luvc_export.calibration.ablation.variants import Shapes
from luvc_export.core.budgets import prefill_flops
from luvc_export.core.plan.request import LlmRequest, PlanRequest
from luvc_export.export.compression import spu


def test_both_off_is_kv_only_in_answers_and_flops() -> None:
    """And alone, or in the front, or as stale rows with nobody at rest, they are something else or nothing."""
    opened = open_checkpoint(str(MODELS["glyph_deep"]))
    unit, (height, width) = opened.family.unit_pixels(opened.config), SIZES["plain"]
    llm = opened.family.decoder_shape(opened.config)
    shapes = Shapes((height // unit, width // unit), llm, opened.family.encoder_shape(opened.config))
    engine = PlanEvaluator(opened, load_model(opened), asked("glyph_deep", "plain", 16, True), True)

    def seen(switches: Switches, kv_only: tuple[int, ...] = ()) -> torch.Tensor:
        with switched(switches, shapes):
            return torch.cat(engine.predictions(shapes.none().changed(kv_only=kv_only), range(16)))

    def off(a: torch.Tensor, b: torch.Tensor) -> float:
        return float((a - b).abs().max())

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
