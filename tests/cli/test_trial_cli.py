"""``trial`` on the command line: what would be done, what is refused, what a machine with nothing is told."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from cli_words import Cli

from luvc_export.trial import machine, run, steps
from luvc_export.trial.steps import Asked, Step


def test_what_would_be_done_and_how_long(cli: Cli, tmp_path: Path) -> None:
    code, out, _ = cli("trial", "demo", "--dry-run", "--out", tmp_path / "out", "--target", "rtx-ada")
    assert code == 0 and not (tmp_path / "out").exists()
    assert "export         a bundle with two plans, weights by reference: about 4" in out
    assert "of 30 minutes; times are assumed" in out
    code, out, _ = cli("trial", "demo", "--dry-run", "--json", "--only", "plan", "--out", tmp_path / "out")
    record = json.loads(out)
    assert code == 0 and [step["step"] for step in record["steps"]] == ["plan"] and 0 < record["seconds"] < 60


def test_a_machine_with_nothing_ends_with_3_and_a_list(
    cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    honest = machine.importlib.util.find_spec
    absent = ("torch", "onnxruntime")
    monkeypatch.setattr(machine.importlib.util, "find_spec", lambda name: None if name in absent else honest(name))
    monkeypatch.setattr("luvc_export.trial.machine.target_here", lambda: None)
    for words in ((), ("--dry-run",)):
        code, _, err = cli("trial", "demo", "--out", tmp_path / "out", *words)
        assert code == 3 and err.startswith("error: nothing of a trial can be done on this machine:")
        assert "- bench: no onnxruntime (pip install 'luvc-export[cpu]')" in err and "Traceback" not in err
        assert "no target is named, and none can be built for here" in err
        assert err.count("\n  - ") == len(steps.STEPS)


def test_the_size_is_that_of_plan_and_export(cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Asked] = []
    monkeypatch.setattr(run, "planned", lambda one, only: asked.append(one) or [])
    monkeypatch.setattr(run, "check_anything", lambda planned: None)
    for words in ((), ("--image-size", "112x168"), ("--image-tokens", "64")):
        assert cli("trial", "demo", "--dry-run", "--out", tmp_path / "out", *words)[0] == 0
        for name in ("plan", "export"):
            command = steps.find(name).command(asked[-1])
            assert " ".join(words or ("--image-size",)) in " ".join(command)
    assert asked[0].canvas == () and "canvas" not in run._identity(asked[0]) and "canvas" in run._identity(asked[1])


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("--target", "rtx-adda"), "did you mean 'rtx-ada'"),
        (("--minutes", "0"), "a trial needs time"),
        (("--target", "cpu"), "a trial builds engines, and this target has none"),
        (("--only", "bensh"), "did you mean 'bench'"),
        (("--image-size", "112x112", "--image-size", "56x56"), "this is for one size"),
        (("--image-tokens", "auto"), "this is for one size"),
        (("--image-size", "wide"), "--image-size"),
    ],
)
def test_what_is_asked_wrongly_is_refused(cli: Cli, tmp_path: Path, words: tuple[str, ...], says: str) -> None:
    code, _, err = cli("trial", "demo", "--out", tmp_path / "out", *words)
    assert code == 2 and says in err
    assert not (tmp_path / "out" / "journal.json").exists()


def test_something_that_does_not_hold_ends_with_1(cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def copied(step: Step, asked: Asked) -> list[str]:
        export = {"model_type": "x", "plans": {"safe": [1, 0], "none": [1, 1]}, "weights_mode": "copy"}
        return ["echo", json.dumps(export)]

    quick = Step("export", "an export", ("export",), (), (0.0, 0), lambda record: record, ())
    monkeypatch.setattr(steps, "STEPS", (quick,))
    monkeypatch.setattr("luvc_export.trial.report.STEPS", (quick,))
    monkeypatch.setattr(run, "command", copied)
    code, out, err = cli("trial", "demo", "--out", tmp_path, "--target", "rtx-ada")
    assert code == 1 and "fails" in out and "weights: copy" in out and "got: reference" in err
    report = json.loads((tmp_path / "report.json").read_text(encoding="utf-8"))
    assert report["verdicts"][0]["verdict"] == "fails" and (tmp_path / "report.html").stat().st_size > 1000
