"""What named plans kept: of today's recipes, in the order that their names promise."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from flat_plans import flat_plan, replan

from luvc_export.core.files import pages
from luvc_export.core.named_plans import CLIPS, DEFAULT_PLAN, NAMED, PICTURES
from luvc_export.core.plan import MergePass
from luvc_export.core.plan import figures as plan_figures

DOCS = Path(__file__).resolve().parents[2] / "docs"
DEEP = [(model, ground) for model, ground, _ in plan_figures.COLUMNS]
FILMS = [(model, ground) for model, ground, _ in plan_figures.FILMS]
EVERY = DEEP + [(model, ground) for model, ground, _ in plan_figures.BUNDLED]


@pytest.mark.parametrize("name", PICTURES)
def test_every_recipe_was_measured_as_it_is_now(name: str) -> None:
    rows = plan_figures.of(name)
    assert set(EVERY) <= set(rows), "the recipe changed: run python -m glyph_deep.studies.plans.named"
    assert all(rows[key].questions >= 1000 for key in EVERY)


@pytest.mark.parametrize("name", {**PICTURES, **CLIPS})
def test_every_recipe_was_measured_on_films(name: str) -> None:
    rows = plan_figures.of(name)
    assert set(FILMS) <= set(rows), "the recipe changed: run python -m glyph_clips.named"
    assert all(rows[key].questions >= 600 for key in FILMS)


def test_the_plan_for_films_keeps_answers_at_a_quarter() -> None:
    """The bar: 0.98 of them. What vLLM ships keeps no more at as many tokens, chosen by score alone."""
    ours = plan_figures.of("film")[FILMS[0]]
    assert ours.retention[0] >= 0.98
    study = Path(__file__).parents[2] / "docs" / "results" / "glyph-clips.json"
    rows = {(row["plan"], row["tokens"]): row["retention"][0] for row in json.loads(study.read_text())["rows"]}
    assert NAMED["film"].request.llm.method.name == "maxmin" and rows["maxmin", 72] > rows["evs", 72]
    assert plan_figures.kept("film") == {"films": ours.retention[0]} and "films" not in plan_figures.kept("safe")


def test_figures_of_another_recipe_are_not_this_one_s() -> None:
    changed = [replace(row, key="0" * 16) for row in plan_figures.figures()]
    assert plan_figures.of(DEFAULT_PLAN, changed) == {}


def test_the_default_keeps_pages_and_halves_their_prefill() -> None:
    rows = plan_figures.of(DEFAULT_PLAN)
    for key in DEEP:
        value, low, _ = rows[key].retention
        assert value >= 0.98 and low >= 0.96, key
    assert rows[("glyph_deep", "pages")].flops >= 2


def test_names_keep_their_order() -> None:
    """Faster ones are faster everywhere; on pages the safe one keeps most, and what merges or prunes units least."""
    by_name = {name: plan_figures.of(name) for name in PICTURES}
    for key in DEEP:
        assert by_name["staged"][key].flops < by_name["lean"][key].flops <= by_name["safe"][key].flops
        encoder = [by_name[name][key].encoder_flops for name in ("safe", "lean", "leaner")]
        assert encoder == sorted({*encoder})
        assert by_name["luvc-literal"][key].retention[0] < by_name["luvc"][key].retention[0]
    pages = {name: rows[("glyph_deep", "pages")].retention[0] for name, rows in by_name.items()}
    assert min(pages["safe"], pages["staged"]) > pages["lean"] > max(pages["leaner"], pages["luvc"])


def test_first_tokens_are_of_today_s_recipes_and_keep_their_order(monkeypatch: pytest.MonkeyPatch) -> None:
    times = plan_figures.first_tokens()
    seconds = {name: one.seconds[0] for name, one in times.items()}
    assert seconds["none"] > seconds["staged"] > seconds["safe"] > seconds["lean"] > seconds["leaner"]
    assert any(one.key is None for one in times.values()) and all(one.runs >= 4 for one in times.values())
    assert plan_figures.sooner("lean") == seconds["none"] / seconds["lean"] and plan_figures.sooner("even") is None
    monkeypatch.setitem(NAMED, "lean", replace(NAMED["lean"], request=NAMED["staged"].request))
    assert "lean" not in plan_figures.first_tokens() and plan_figures.sooner("lean") is None


def test_the_file_is_written_a_row_a_line() -> None:
    text = plan_figures.FIGURES.read_text(encoding="utf-8")
    assert plan_figures.written(json.loads(text)) == text


def test_the_page_shows_these_figures(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(DOCS)
    import plan_tables

    page = (DOCS / "plans.md").read_text(encoding="utf-8")
    for name, tables in plan_tables.TABLES.items():
        assert pages.within(page, name, tables()) == page, "python docs/plan_tables.py"
        assert f"<!-- {name} -->" in page


def test_a_plan_that_merges_says_so() -> None:
    plan = flat_plan((8, 8), (56, 0), (MergePass(1, 1, 0),))
    note = plan_figures.merging_note(plan)
    assert note is not None and "merges in the encoder" in note and "docs/plans.md" in note
    assert plan_figures.merging_note(replan(plan, merges=(), keep=(64, 0))) is None
