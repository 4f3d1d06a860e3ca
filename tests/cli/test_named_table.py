"""What a bundle's plans kept where they were measured, as ``inspect`` and the served models say it."""

from __future__ import annotations

import io
from dataclasses import replace

import pytest
from flat_plans import flat_request
from rich.console import Console

from luvc_export.cli.tables.named import bundle_table, named_rows, named_table
from luvc_export.core.named_plans import CLIPS, NAMED, PICTURES
from luvc_export.core.plan import Sharing
from luvc_export.core.plan import figures as plan_figures
from luvc_export.core.planning import recipe_of, solve
from luvc_export.core.shapes import DecoderShape, EncoderShape, LayerShape
from luvc_export.errors import PlanError
from luvc_export.export.checkpoint import open_checkpoint
from luvc_export.pipeline import make_plan
from luvc_export.serve.models import measured

LLM = DecoderShape(8, 192, 6, 2, 32, 512, 746, 2048)
ENCODER = EncoderShape(12, 128, 320, 4, 4, (3, 7, 11), True)


def test_named_plans_alone_have_a_row() -> None:
    plans = {name: solve(flat_request(name), (10, 26), LLM, ENCODER) for name in ("none", "even", "safe", "lean")}
    console = Console(width=120, record=True, file=io.StringIO())
    console.print(bundle_table(plans, LLM))
    shown = console.export_text()
    rows = [line.split("│")[1].strip() for line in shown.splitlines() if line.startswith("│")]
    assert rows == ["safe", "lean"]
    kept = plan_figures.kept("safe")
    assert [*kept] == ["digits", "busy", "pages", "other fonts", "photos"]
    flat = " ".join(shown.split())
    assert all(f"{value:.3f}" in shown for value in kept.values()) and "measured on glyph_deep" in flat
    assert f"{plan_figures.sooner('safe'):.2f}x" in shown and plan_figures.timed_at() in flat
    assert bundle_table({"even": plans["even"]}, LLM) is None
    both = plans | {"evs": solve(flat_request("evs", joint_images=4), (10, 26), LLM, ENCODER)}
    console.print(bundle_table(both, LLM))
    text = " ".join(console.export_text().split())
    assert "films" in text and "measured on glyph_clips and glyph_deep" in text


def test_clips_have_a_table_of_their_own() -> None:
    console = Console(width=140, record=True, file=io.StringIO())
    console.print(named_table((6, 6), LLM, ENCODER, 64, "evs", 8))
    shown = console.export_text()
    rows = [line.split()[0] for line in shown.splitlines() if "x  " in line]
    assert rows == [*CLIPS] and "glyph_clips" in shown and "pages" not in shown


def test_a_plan_that_the_model_refuses_has_a_row() -> None:
    """A convolutional tower, and a last layer that has a convolution in place of keys and values."""
    tower = EncoderShape(0, 128, 320, 4, 0, (), False, 1000)
    layers = tuple(LayerShape(0 if number == 7 else 2, 32, 512, number) for number in range(8))
    rows = {row[0]: row for row in named_rows(PICTURES, (6, 6), LLM, tower, 64, Sharing(), plan_figures.COLUMNS)}
    assert rows["lean"][1:3] == rows["leaner"][1:3] == ["refused", ""] and rows["safe"][1].endswith("x")
    mixed = replace(LLM, per_layer=layers)
    assert mixed.keyless == (7,)
    for name in NAMED:
        plan = solve(flat_request(name, joint_images=8 if name in CLIPS else 1), (6, 6), mixed, ENCODER)
        assert recipe_of(plan, mixed) == name and (
            name == "none" or plan.keep[-1] == 0 or plan.llm.last_layer == "full"
        )
    with pytest.raises(PlanError, match="layer 7 has no keys and values"):
        solve(flat_request("even", last_layer="kv_only"), (6, 6), mixed, ENCODER)


@pytest.mark.parametrize("name", NAMED)
def test_an_exported_plan_is_known_as_its_recipe(name: str) -> None:
    """Export writes out every setting of a score; a recipe names those that it sets."""
    opened = open_checkpoint("demo")
    llm = opened.family.decoder_shape(opened.config)
    plan = make_plan("demo", name)
    assert recipe_of(plan, llm) == name
    assert recipe_of(plan.changed(method=replace(plan.llm.method, settings=(("rho", 0.9),))), llm) is None
    if "steps" in dict(plan.llm.method.settings):
        steps = make_plan("demo", name, steps=4)
        assert recipe_of(steps, llm) is None


def test_a_served_model_says_what_its_recipe_kept() -> None:
    measurement = measured("safe")
    assert measurement is not None and measurement.pop("first_token") == plan_figures.sooner("safe") > 1
    assert measurement.pop("timed_at").startswith("9 layers and 8 blocks")
    assert measurement == {"name": "safe", "measured_on": "glyph_deep", "kept": plan_figures.kept("safe")}
    assert measured(None) is None
