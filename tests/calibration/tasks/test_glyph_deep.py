"""The deeper task: found by its name, one split a ground, and said plainly to be missing where the examples are not."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from luvc_export.calibration import datasets, tasks
from luvc_export.errors import MachineError, UsageError


def test_each_ground_is_a_task_with_its_own_size_and_search_split() -> None:
    assert {"glyph", "glyph-deep", "glyph-deep-plain", "glyph-deep-textured"} <= set(tasks.names())
    pages, busy = tasks.find("glyph-deep"), tasks.find("glyph-deep-textured")
    for task in (pages, busy):
        (reported,), (searched,) = (list(task.cases(split, 1, seed)) for split, seed in (task.report, task.search))
        assert reported.images[0].shape == (*task.image_size, 3)
        assert not np.array_equal(reported.images[0], searched.images[0])
    assert pages.image_size != busy.image_size
    assert tasks.find("glyph-deep", "textured").report == ("textured", 0)


def test_a_calibration_set_is_the_search_split() -> None:
    questions = datasets.load("glyph-deep-textured", count=16)
    expected = list(tasks.find("glyph-deep-textured").cases("search-textured", 16, 0))
    assert [case.prompt for case in questions.cases] == [case.prompt for case in expected]


def test_names_and_splits_that_are_not_there_are_answered_with_what_is() -> None:
    with pytest.raises(UsageError, match="did you mean 'glyph-deep'"):
        tasks.find("glyph-dep")
    with pytest.raises(UsageError, match="did you mean 'pages'"):
        tasks.find("glyph-deep", "page")


def test_without_the_examples_the_task_says_what_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tasks, "EXAMPLES", tmp_path)
    with pytest.raises(MachineError, match=r"needs the folder examples/glyph_deep(.|\n)*checkout of the repository"):
        tasks.example("glyph_deep", "data.cases")


def test_without_weights_the_task_has_no_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "glyph_deep").mkdir()
    monkeypatch.setattr(tasks, "EXAMPLES", tmp_path)
    assert tasks.checkpoint_of("glyph_deep") is None
