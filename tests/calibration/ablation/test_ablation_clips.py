"""The comparison of plans for clips: chosen on one split, reported on another, gone on with where it stopped."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from luvc_export.calibration.ablation import clips
from luvc_export.calibration.ablation.evaluator import PlanEvaluator
from luvc_export.calibration.tasks import find
from luvc_export.cli import main
from luvc_export.core.named_plans import NAMED
from luvc_export.core.plan import Plan
from luvc_export.errors import UsageError
from luvc_export.export.checkpoint import open_checkpoint

ASKED = 3


def test_what_one_split_chooses_the_other_reports(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The model is stood in for: on the search split `scope` with v-cast's quota knows most, elsewhere `stride`."""
    task = find("glyph-clips")
    first = next(task.cases(*task.search[:1], 1, task.search[1])).video[0]  # type: ignore[attr-defined]
    plans: list[tuple[bool, Plan]] = []

    def right(engine: PlanEvaluator, plan: Plan) -> list[bool]:
        searched = bool((engine.cases[0].video[0] == first).all())  # type: ignore[attr-defined]
        plans.append((searched, plan))
        assert plan.sharing.images == 8 and len(engine.cases) == ASKED
        if not plan.prunes_tokens:
            return [True] * ASKED
        score = plan.llm.method.name
        if searched:
            return [score == "scope", score == "scope" and plan.sharing.quota == "v-cast", False]
        return [score == "stride"] * ASKED

    monkeypatch.setattr(PlanEvaluator, "right", right)
    argv = ["ablate", "--task", "glyph-clips", "-o", str(tmp_path), "--count", str(ASKED), "--search", str(ASKED)]
    monkeypatch.setattr("sys.argv", ["luvc-export", *argv])
    with pytest.raises(SystemExit, match="0"):
        main()
    data: dict[str, Any] = json.loads((tmp_path / clips.FIGURES).read_text())
    assert data["chosen"] == "scope, quota v-cast"
    assert [row["plan"] for row in data["search"]][-5:] == [f"scope, quota {quota}" for quota in clips.QUOTAS]
    rows = {row["plan"]: row for row in data["report"]}
    assert rows["searched: scope, quota v-cast"]["accuracy"][0] == 0 and rows["stride"]["retention"][0] == 1
    assert rows["stride"]["against"][0] == 1 and "against" not in rows["uncompressed"]
    assert {f"`{name}`" for name in NAMED} < rows.keys()
    page = (tmp_path / clips.PAGE).read_text()
    assert "Chosen: scope, quota v-cast." in page and f"Written by `luvc-export {' '.join(argv)}`" in page
    assert {searched for searched, _ in plans} == {True, False}

    plans.clear()
    with pytest.raises(SystemExit, match="0"):
        main()
    assert not plans and json.loads((tmp_path / clips.FIGURES).read_text()) == data


def test_a_row_of_the_search_is_the_named_plan_where_they_say_the_same() -> None:
    task = find("glyph-clips")
    shapes = clips.shapes_of(open_checkpoint(str(task.checkpoint)), task)
    assert shapes.variant("maxmin").plans == (shapes.named("film"),)
    assert shapes.variant("maxmin", "v-cast").plans[0].sharing.quota == "v-cast"
    assert all(
        shapes.named(name).sharing.quota == clips.SCORES[name] for name in ("evs", "dycoke", "vidcom2", "holitom")
    )
    assert shapes.none().vision_tokens * shapes.moments == shapes.none().keep[0]


def test_a_model_without_videos_is_told(tmp_path: Path) -> None:
    family = SimpleNamespace(video=lambda config: None)
    still: Any = SimpleNamespace(family=family, config=None, folder=tmp_path)
    with pytest.raises(UsageError, match="takes no video"):
        clips.shapes_of(still, find("glyph-clips"))
