"""The task about films: found by its name, heard by parity, refused where pictures are asked about."""

from __future__ import annotations

from pathlib import Path

import pytest

from luvc_export.calibration import datasets, tasks
from luvc_export.calibration.parity.run import open_pair, parity
from luvc_export.cli import main
from luvc_export.core.named_plans import CLIPS
from luvc_export.errors import MachineError, UsageError


def test_it_asks_about_films_and_searches_others() -> None:
    task = tasks.find("glyph-clips")
    (reported,), (searched,) = (list(task.cases(split, 1, seed)) for split, seed in (task.report, task.search))
    assert task.frames == len(reported.video) == 16 and reported.video[0].shape == (*task.image_size, 3)
    assert (reported.video[0] != searched.video[0]).any()
    assert tasks.find("glyph-clips", "harder").report == ("harder", 0)
    films = datasets.load("glyph-clips", count=6)
    assert len(films.cases) == 6 and len({key for keys in films.pixels for key in keys}) > 16


@pytest.mark.slow(beside="calibration/parity/test_parity.py::test_the_bundle_agrees_at_every_level")
def test_parity_takes_its_films_and_plans_for_clips() -> None:
    task = tasks.find("glyph-clips")
    model, asked = str(task.checkpoint), list(task.cases(*task.report[:1], 2, task.report[1]))
    left, right = open_pair(f"hf:{model}", f"torch:{model}#none", task.image_size, video=True, frames=task.frames)
    result = parity(left, right, asked, observe=1, longest=task.longest, stops=task.stops)
    assert result.passed and result.comparison.same
    for name in CLIPS:
        clip = open_pair(f"hf:{model}", f"torch:{model}#{name}", task.image_size, video=True, frames=task.frames)[1]
        assert clip.plan.sharing.kind == "clip" and clip.plan.schedule == name


@pytest.mark.parametrize(
    ("argv", "says", "instead"),
    [
        (["ablate", "-o", "out", "--side", "3"], "no side sections", "leave out --side"),
        (["pack", "demo", "-o", "out", "--target", "cpu"], "a task about pictures", "leave it out"),
    ],
)
def test_what_asks_about_pictures_says_so(
    argv: list[str],
    says: str,
    instead: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", ["luvc-export", *argv, "--task", "glyph-clips"])
    with pytest.raises(SystemExit) as stop:
        main()
    err = capsys.readouterr().err
    assert stop.value.code == 2 and says in err and instead in err and "glyph-clips" in err
    assert not (tmp_path / "out").exists()


def test_a_search_reads_its_films(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """``plan --data glyph-clips`` as far as the split into a searched and a held-out part, of whole films."""
    model = str(tasks.find("glyph-clips").checkpoint)
    argv = ["plan", model, "--data", "glyph-clips", "--count", "6", "--image-size", "168x168", "--joint-frames", "16"]
    monkeypatch.setattr("sys.argv", ["luvc-export", *argv])
    with pytest.raises(SystemExit) as stop:
        main()
    err = capsys.readouterr().err
    assert stop.value.code == 2 and "3 questions to search on" in err and "where: glyph-clips" in err


def test_without_the_example_it_says_what_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tasks, "EXAMPLES", tmp_path)
    with pytest.raises(MachineError, match=r"task glyph-clips needs the folder examples/glyph_clips"):
        tasks.example("glyph_clips", "cases")
    with pytest.raises(UsageError, match="did you mean 'glyph-clips'"):
        tasks.find("glyph-clip")
