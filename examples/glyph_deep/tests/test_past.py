"""Plans that a search found, plans of equal cost, and the page that is made of rows."""

from __future__ import annotations

import json
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from glyph_deep.data.cases import SIZES
from glyph_deep.studies.methods import past
from glyph_deep.studies.plans import instruments, recipes
from glyph_deep.studies.plans import named as named_study
from glyph_deep.studies.vision import together

from luvc_export.calibration.ablation import study as timing
from luvc_export.calibration.ablation.past import at_speedup
from luvc_export.calibration.ablation.study import Row
from luvc_export.calibration.ablation.variants import Shapes
from luvc_export.calibration.intervals import Interval
from luvc_export.core.named_plans import PICTURES
from luvc_export.core.plan import EncoderPlan, LlmPlan, Plan
from luvc_export.core.plan.cost import cost
from luvc_export.core.planning import check_model
from luvc_export.errors import UsageError
from luvc_export.export.checkpoint import open_checkpoint
from luvc_export.export.compression import scores

FILES = sorted(past.PLANS.glob("*.json"))


@pytest.fixture(scope="module")
def shapes() -> Shapes:
    """Return what plans of digits are made for."""
    opened = open_checkpoint(str(Path(past.__file__).parents[2] / "checkpoint"), None, weights=False)
    return Shapes((9, 12), opened.family.decoder_shape(opened.config), opened.family.encoder_shape(opened.config))


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_a_searched_plan_fits_the_model_and_is_three_times_cheaper(path: Path, shapes: Shapes) -> None:
    """A committed plan is one of this model, and costs what the issue asks for."""
    plan = Plan.from_json(json.loads(path.read_text()))
    check_model(plan, shapes.llm, shapes.encoder)
    assert plan.grid == (SIZES[path.stem][0] // 28, SIZES[path.stem][1] // 28) and plan.llm.kv_only
    assert cost(plan, shapes.llm, 17).flops_ratio >= 3
    both = [variant.plans[0] for variant in together.variants(plan, shapes.encoder.blocks, shapes.encoder.window)]
    for one in both:
        check_model(one, shapes.llm, shapes.encoder)
    spared = [cost(one, shapes.llm, 17, encoder=shapes.encoder).encoder_ratio for one in both]
    assert spared[0] == 1 and all(1.1 < ratio < 1.7 for ratio in spared[1:])


def test_plans_of_equal_cost_keep_as_much_as_fits(shapes: Shapes) -> None:
    """One token more in every layer would cost too much."""
    whole = cost(shapes.none(), shapes.llm, 17).flops
    for still in ((), (2, 3, 4, 5, 6)):
        plan = at_speedup(shapes, 17, 3.0, still, scores.method("norm"))
        more = plan.changed(keep=tuple(count + 1 for count in plan.keep))
        costs = [cost(one, shapes.llm, 17).flops for one in (plan, more)]
        assert 3 * costs[0] <= whole < 3 * costs[1] and plan.llm.kv_only == still
    with pytest.raises(UsageError, match="no plan is so cheap"):
        at_speedup(shapes, 17, 30.0, ())


@pytest.mark.slow(
    beside="../examples/glyph_deep/tests/test_past.py::test_named_plans_are_measured_with_what_they_save_in_the_encoder"
)
def test_what_a_search_found_is_measured_beside_a_method_with_its_frozen_layers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A ground's section is measured; the method beside the plan freezes the plan's layers."""
    methods = past.past.methods
    monkeypatch.setattr(past.past, "methods", lambda *values: methods(*values)[:1])
    monkeypatch.setattr(past, "defaults", lambda study: {})
    monkeypatch.setattr(timing, "measure", partial(timing.measure, rounds=1))
    study = past.study_of("plain", tmp_path, Path(past.__file__).parents[2] / "checkpoint", 2, 1)
    figures = past.measure(study, Plan.from_json(json.loads((past.PLANS / "plain.json").read_text())), 3.0)
    uncompressed, searched = figures["searched"]
    assert searched.flops_ratio >= 3 > uncompressed.flops_ratio == 1
    assert figures["equal"][1].name.endswith(", frozen")
    assert len(figures["equal"]) == 2 and figures["equal"][0].keep == searched.keep != figures["equal"][1].keep


def test_named_plans_are_measured_with_what_they_save_in_the_encoder(tmp_path: Path) -> None:
    """Plans that merge cost the encoder less, the default as much as none."""
    plans = {}
    for row in named_study.records("bundled", 2, tmp_path, PICTURES):
        if row["ground"] != instruments.GROUNDS["bundled"][0]:
            break
        plans[row["plan"]] = row
    assert set(plans) == {"none", *PICTURES} and plans["none"]["flops"] == 1 and plans["safe"]["flops"] > 1
    assert plans["safe"]["encoder_flops"] == 1 < plans["lean"]["encoder_flops"]


def test_questions_of_the_pretrained_model_are_four_a_picture_of_every_kind() -> None:
    """Searched ones are not those held out."""
    held, searched = (instruments.asked("pretrained", "plain", 40, search) for search in (False, True))
    pictures = [case.picture for case in held]
    assert max(map(pictures.count, pictures)) <= 4 and len({case.kind for case in held}) == 8
    assert not np.array_equal(held[0].images[0], searched[0].images[0])


def test_recipes_that_are_searched_say_what_they_save_of_a_large_model() -> None:
    """All tokens behind the first layers save nothing but at the last."""
    fewer = recipes.saved({share: recipes.request(f"residual:share={share},every=1,gone=1") for share in ("0.5", "1")})
    assert fewer["0.5"] > 1.5 > 1.1 > fewer["1"] >= 1
    some = {"worse": [Interval(0.9, 0.8, 1.0)], "better": [Interval(0.95, 0.9, 1.0)]}
    text = recipes.table(["pretrained, plain"], some, {"worse": 2.0, "better": 2.5})
    assert text.index("| `better` | 0.950 (0.900 to 1.000) | 2.50x |") < text.index("| `worse` |")


def test_rows_that_were_not_measured_again_stay_while_the_weights_do(tmp_path: Path) -> None:
    """A model with other weights loses its rows; new rows replace their like; the order is that of the tables."""
    file = tmp_path / "figures.json"

    def row(model: str, ground: str, plan: str, flops: int) -> dict[str, object]:
        return {"model": model, "ground": ground, "plan": plan, "flops": flops}

    before = [row("glyph_deep", "plain", plan, 1) for plan in ("none", "safe", "lean")] + [
        row("bundled", "harder", "safe", 1)
    ]
    file.write_text(json.dumps({"about": {"weights": {"glyph_deep": "a", "bundled": "b"}}, "rows": before}))
    new = [row("glyph_deep", "plain", "lean", 2), row("glyph_deep", "plain", "staged", 2)]
    kept = named_study.merged(new, file, {"glyph_deep": "a", "bundled": "c"})
    assert [(each["plan"], each["flops"]) for each in kept] == [("none", 1), ("safe", 1), ("staged", 2), ("lean", 2)]
    assert named_study.merged(new, tmp_path / "none.json", {}) == new[::-1]


def test_the_page_says_what_the_rows_say() -> None:
    """Figures of the page are those of the rows."""
    sure = Interval(0.987, 0.981, 0.993)
    row = Row("scope", "9 tokens", (9,), 9.0, 40, sure, sure, {}, 3.21, 0, timing.Times(1.0, 2.5, 3.5))
    method = scores.method("residual", rho=0.5)
    plan = Plan(EncoderPlan((9, 12)), LlmPlan((108, 60, 0), method, kv_only=(1,)))
    solved = {"rows": [row] * 3, "gains": [sure] * 2}
    parts = {"text": 17, "plan": plan.to_json(), "searched": [row, row], "paired": sure, "equal": [row], "down": [row]}
    figures = {
        "plain": {**parts, "defaults": {"even": solved}, "command": "c"},
        "bundled": {"defaults": {"even": solved}, "command": "c"},
    }
    text = past.page(figures, {"weights": "0" * 64, "speedup": 3.0})
    assert "layers 1 frozen" in text and "**3.21x fewer prefill FLOPs, retention 0.987 (0.981 to 0.993)**" in text
    assert "| scope | 9 tokens | 3.21x |" in text and "| 3.5 | 0.987 |" in text
    assert "| scope | 9 tokens | 3.5 | 2.5 |" in text and text.count("| bundled |") == 1
    slower = replace(row, times=timing.Times(1.0, 2.5, 9.0))
    assert "| 9.0 | outside |" in past.page(
        {"plain": {**figures["plain"], "equal": [slower]}}, {"weights": "", "speedup": 3}
    )


def test_the_committed_page_is_its_figures() -> None:
    """One figure changed in the data is another page."""
    file = Path(past.__file__).parents[4] / "docs/results" / past.FIGURES
    about = json.loads(file.read_text(encoding="utf-8"))["about"]
    data, text = past.measured(file, about), file.with_suffix(".md").read_text(encoding="utf-8")
    assert past.page(data, about) == text
    data["plain"]["equal"][0] = replace(data["plain"]["equal"][0], flops_ratio=9.0)
    assert past.page(data, about) != text
    assert past.measured(file, {**about, "weights": "other"}) == {}
