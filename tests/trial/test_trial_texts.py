"""A journal of a stranger: odd shapes and hostile texts end in an error of ours, or in a report that shows them."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest
from hostile_texts import changed, error_of, harmless, printed
from trial_results import made_results

from luvc_export.errors import LuvcError, UsageError
from luvc_export.trial import report
from luvc_export.trial.report import page
from luvc_export.trial.run import Journal

MACHINE = {"device": "board", "versions": {"python": "3"}, "power": {}}
STEPS = {"machine": MACHINE, **made_results()}
TOLD: dict[str, Any] = {
    "asked": {"version": "1", "model": "demo", "target": None},
    "steps": {name: {"state": "done", "seconds": 1.0, "why": None, "result": kept} for name, kept in STEPS.items()},
}


def test_every_text_of_a_journal(tmp_path: Path) -> None:
    (tmp_path / "journal.json").write_text(json.dumps(TOLD))
    assert report.make(Journal.open(tmp_path, TOLD["asked"]))
    tried = 0
    for one in changed(TOLD):
        tried += 1
        (tmp_path / "journal.json").write_text(json.dumps(one))
        try:
            written = report.make(Journal.open(tmp_path, TOLD["asked"]))
            page(written)
        except LuvcError as error:
            assert harmless(error_of(error))
            continue
        assert harmless(printed(*(line["figure"] for line in written["verdicts"])))
    assert tried > 10


@pytest.mark.parametrize("odd", [None, 7, [], {}, {"state": 1}, {"state": "done"}, "done", [["state", "done"]]])
def test_a_step_that_is_none_is_said(tmp_path: Path, odd: object) -> None:
    (tmp_path / "journal.json").write_text(json.dumps({**TOLD, "steps": {**TOLD["steps"], "plan": odd}}))
    with pytest.raises(UsageError, match="the journal of this trial is damaged"):
        Journal.open(tmp_path, TOLD["asked"])


def test_results_without_their_figures_are_said(tmp_path: Path) -> None:
    for name in TOLD["steps"]:
        for odd in ({}, {"runs": 7}, {"cases": [None]}, {"gates": [{}], "passed": None}):
            journal = copy.deepcopy(TOLD)
            journal["steps"][name]["result"] = odd
            (tmp_path / "journal.json").write_text(json.dumps(journal))
            try:
                page(report.make(Journal.open(tmp_path, TOLD["asked"])))
            except LuvcError as error:
                assert "lacks figures" in str(error) or "more than it should" in str(error)
