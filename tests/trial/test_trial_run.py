"""A trial goes on where it was interrupted, skips what is missing, and ends inside its minutes."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from luvc_export.demo import CHECKPOINT
from luvc_export.errors import MachineError, UsageError
from luvc_export.trial import machine, run, steps
from luvc_export.trial.run import Journal
from luvc_export.trial.steps import Asked

FAKE = Path(__file__).with_name("fake_trial.py")
NAMES = [step.name for step in steps.STEPS]


def begin(folder: Path, seconds: float) -> subprocess.Popen[bytes]:
    paths = os.pathsep.join([str(Path.cwd()), *filter(None, [os.environ.get("PYTHONPATH")])])
    environment = {**os.environ, "PYTHONPATH": paths}
    return subprocess.Popen([sys.executable, str(FAKE), str(folder), str(seconds)], env=environment)


def states(folder: Path) -> dict[str, str]:
    path = folder / "journal.json"
    if not path.is_file():
        return {}
    return {name: step["state"] for name, step in json.loads(path.read_text(encoding="utf-8"))["steps"].items()}


@pytest.mark.slow(beside="bundle/test_replacing.py::test_killed_at_each_step_nothing_is_lost_and_nothing_left")
def test_killed_at_six_moments_it_still_gets_done(tmp_path: Path) -> None:
    """SIGKILL while steps run and between them. What is done is not done again, and no step outlives the trial."""
    chance, seen = random.Random(22), set[str]()
    for _ in range(6):
        trial = begin(tmp_path, 0.15)
        already = len(states(tmp_path))
        deadline = time.monotonic() + 60
        while len(states(tmp_path)) <= already + chance.randrange(2) and trial.poll() is None:
            assert time.monotonic() < deadline
            time.sleep(0.02)
        time.sleep(chance.random() * 0.3)
        trial.send_signal(signal.SIGKILL)
        trial.wait()
        kept = {name for name, state in states(tmp_path).items() if state == "done"}
        assert seen <= kept, "what was done is still done"
        seen = kept
    assert begin(tmp_path, 0.01).wait() == 0
    assert set(states(tmp_path)) == {"machine", *NAMES, "power-after"} and set(states(tmp_path).values()) == {"done"}
    ended = (tmp_path / "started.ended").read_text(encoding="utf-8").split()
    assert set(ended) == set(NAMES)
    assert all(ended.count(name) <= 2 for name in NAMES), "twice only where it was killed before it was noted"


@pytest.fixture
def asked(tmp_path: Path) -> Asked:
    return Asked(str(CHECKPOINT), "rtx-ada", tmp_path)


@pytest.fixture
def everything(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine that lacks nothing, and steps that take no time."""
    monkeypatch.setattr(
        machine, "lacks", lambda asked: dict.fromkeys(("export", "cpu", "library", "gpu", "any-gpu", "checkout"))
    )
    monkeypatch.setattr(steps, "write_cases", lambda folder: folder)
    quick = [replace(step, seconds=(0.0, 0), pick=lambda record: record) for step in steps.STEPS]
    monkeypatch.setattr(steps, "STEPS", tuple(quick))


def says(monkeypatch: pytest.MonkeyPatch, code: str) -> None:
    monkeypatch.setattr(run, "command", lambda step, asked: [sys.executable, "-c", code])


def test_a_step_that_fails_is_told_without_the_names_in_its_error(
    asked: Asked, everything: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    error = {"error": {"what": "a graph is damaged", "where": "/home/somebody/secret", "exit_code": 2}}
    says(monkeypatch, f"import sys; print({json.dumps(json.dumps(error))}, file=sys.stderr); sys.exit(2)")
    steps_of = run.run(asked, 30).steps
    assert (steps_of["export"]["state"], steps_of["export"]["why"]) == ("failed", "a graph is damaged")
    assert steps_of["bench"]["state"] == "skipped" and steps_of["bench"]["why"] == "step export gave nothing"
    assert "secret" not in json.dumps({name: step for name, step in steps_of.items() if name != "machine"})


@pytest.mark.parametrize(
    ("code", "why"),
    [
        ("import os; os.kill(os.getpid(), 9)", "it ended with code -9"),
        ("print('no json')", "its output cannot be read: JSONDecodeError"),
        ("import sys; sys.exit(70)", "it ended with code 70"),
    ],
)
def test_a_step_that_breaks_is_a_failed_step(
    asked: Asked, everything: None, monkeypatch: pytest.MonkeyPatch, code: str, why: str
) -> None:
    says(monkeypatch, code)
    step = run.run(asked, 30, ["plan"]).steps["plan"]
    assert (step["state"], step["why"]) == ("failed", why)


def test_it_ends_inside_its_minutes(asked: Asked, everything: None, monkeypatch: pytest.MonkeyPatch) -> None:
    says(monkeypatch, "import time; time.sleep(600)")
    monkeypatch.setattr(run, "_REPORT", 0.0)
    began = time.monotonic()
    ended = run.run(asked, 1.5 / 60, ["plan", "export"]).steps
    assert time.monotonic() - began < 20
    assert (ended["plan"]["state"], ended["plan"]["why"]) == ("cut off", "the time was over before it ended")
    assert ended["plan"]["seconds"] > 1, "what it took of the time is said"
    assert ended["export"]["state"] == "skipped"
    assert Journal.open(asked.folder, {**_asked(asked)}).states().get("plan") is None, "tried again next time"


def _asked(asked: Asked) -> dict[str, Any]:
    return run._identity(asked)


def test_a_step_that_takes_longer_than_is_left_is_not_begun(asked: Asked, monkeypatch: pytest.MonkeyPatch) -> None:
    says(monkeypatch, "raise SystemExit(1)")
    ended = run.run(asked, 0.3, ["plan", "export"]).steps
    assert ended["export"]["why"].startswith("it takes about 4") and "were left" in ended["export"]["why"]


def test_a_folder_holds_one_trial(asked: Asked) -> None:
    Journal(asked.folder, {"version": "1", "model": "a", "target": None}).write("plan", {"state": "done"})
    with pytest.raises(UsageError, match=r"holds another trial\n(.|\n)*expected: (.|\n)*--out FOLDER"):
        run.run(asked, 30)
    (asked.folder / "journal.json").write_text("[", encoding="utf-8")
    with pytest.raises(UsageError, match="journal of this trial is not JSON"):
        run.run(asked, 30)


def test_a_machine_with_nothing_is_told_what_it_lacks(asked: Asked, monkeypatch: pytest.MonkeyPatch) -> None:
    honest = machine.importlib.util.find_spec
    absent = {"torch", "onnxruntime", "openvino"}
    monkeypatch.setattr(machine.importlib.util, "find_spec", lambda name: None if name in absent else honest(name))
    with pytest.raises(MachineError, match=r"nothing of a trial can be done") as caught:
        run.run(asked, 30)
    assert caught.value.exit_code == 3
    for line in ("plan: no torch (pip install 'luvc-export[export]')", "gpu-check: there is no NVIDIA GPU"):
        assert f"  - {line}" in str(caught.value)
    assert len(str(caught.value).splitlines()) == 2 + len(steps.STEPS)
    assert not (asked.folder / "journal.json").exists()


def test_what_would_be_done_and_how_long(asked: Asked, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "weights_gib", lambda model: 2.0)
    named = {each.step.name: each for each in run.planned(asked)}
    assert named["export"].why is None and named["export"].seconds == 40 + 2 * 30
    if named["build-safe"].why is None:
        assert named["engines"].why is not None
    with pytest.raises(UsageError, match=r"there is no such step(.|\n)*did you mean 'bench'"):
        run.planned(asked, ["bensh"])


@pytest.mark.parametrize("name", NAMES)
def test_a_step_s_command_is_one_the_cli_takes(asked: Asked, name: str) -> None:
    """Options that a verb no longer has would show only on somebody's machine."""
    from typer.main import get_command

    from luvc_export.cli import app

    words = steps.find(name).command(asked)
    if words[0] in steps.PROGRAMS:
        return
    verb = get_command(app).commands[words[0]]  # type: ignore[attr-defined]
    context = verb.make_context(words[0], [*words[1:], "--json"])
    assert context.params["as_json"]
