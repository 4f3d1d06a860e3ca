"""A trial: one step after another, each in a process of its own, inside the minutes that were given.

What is done stands in ``journal.json`` of the trial's folder, written after every step: an interrupted trial goes on. A
step is ``done`` (with what its verb said), ``failed`` (its verb said why), ``skipped`` (with the reason), or ``cut
off`` where the time was over while it ran. Only the first two are kept when a trial goes on: what was missing, or too
late, may be there this time.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from time import monotonic
from typing import Any

from luvc_export.core.files.folders import check_own_names, fresh, make_folder
from luvc_export.core.files.json_file import read_json
from luvc_export.core.files.safe_files import locked, write_whole
from luvc_export.errors import MachineError, Progress, UsageError, did_you_mean
from luvc_export.trial import machine, steps
from luvc_export.trial.steps import Asked, Step
from luvc_export.version import VERSION

_JOURNAL = "journal.json"
_MOST_BYTES = 16 << 20
KEPT = ("done", "failed")


@dataclass
class Journal:
    """A trial so far.

    Args:
        folder: Of the trial.
        asked: What it is of: what must be equal to go on.
        steps: Name -> ``state``, ``seconds``, ``why`` and ``result``.
    """

    folder: Path
    asked: dict[str, Any]
    steps: dict[str, dict[str, Any]] = field(default_factory=dict)

    @classmethod
    def open(cls, folder: Path, asked: dict[str, Any]) -> Journal:
        """Read the journal of ``folder``, or begin one.

        Raises:
            UsageError: The folder holds a trial of something else, or its journal is damaged.
        """
        path = folder / _JOURNAL
        if not path.is_file():
            return cls(folder, asked)
        data = read_json(path, _MOST_BYTES, UsageError, "the journal of this trial")
        if not isinstance(data, dict) or data.get("asked") != asked or not isinstance(data.get("steps"), dict):
            got = data.get("asked") if isinstance(data, dict) else None
            raise UsageError(
                "this folder holds another trial",
                where=str(path),
                got=json.dumps(got),
                expected=json.dumps(asked),
                fix="give the trial a folder of its own: --out FOLDER",
            )
        if not all(_is_step(step) for step in data["steps"].values()):
            raise UsageError(
                "the journal of this trial is damaged",
                where=str(path),
                expected="state, seconds, why and result of each step",
                fix="remove it, or give the trial a folder of its own: --out FOLDER",
            )
        kept = {name: step for name, step in data["steps"].items() if step["state"] in KEPT}
        return cls(folder, asked, kept)

    def write(self, name: str, step: dict[str, Any]) -> None:
        """Note a step."""
        self.steps[name] = step
        write_whole(self.folder / _JOURNAL, json.dumps({"asked": self.asked, "steps": self.steps}, indent=1) + "\n")

    def states(self) -> dict[str, str]:
        """State of each step."""
        return {name: str(step["state"]) for name, step in self.steps.items()}


def _is_step(step: Any) -> bool:
    return (
        isinstance(step, dict)
        and step.keys() == {"state", "seconds", "why", "result"}
        and isinstance(step["state"], str)
        and isinstance(step["seconds"], int | float)
        and 0 <= step["seconds"] < float("inf")
        and isinstance(step["why"], str | None)
        and isinstance(step["result"], dict | None)
        and (step["state"] != "done" or step["result"] is not None)
    )


#: Seconds kept back for the report, and those a verb has to end by itself when its time is over.
_REPORT, _GRACE = 15.0, 5.0
_FAILED = 1


@dataclass(frozen=True)
class Planned:
    """A step of a trial that is about to begin: how long it will take, or why it will not be done."""

    step: Step
    seconds: float
    why: str | None


def planned(asked: Asked, only: Sequence[str] = (), done: dict[str, str] | None = None) -> list[Planned]:
    """What would be done here and how long it would take; steps that are done already take no time.

    Raises:
        UsageError: There is no step of such a name.
    """
    names = [step.name for step in steps.STEPS]
    for name in only:
        if name not in names:
            raise UsageError("there is no such step", where="--only", got=name, expected=did_you_mean(name, names))
    lacking, weights, states = machine.lacks(asked), machine.weights_gib(asked.model), dict(done or {})
    result: list[Planned] = []
    for step in steps.STEPS:
        if only and step.name not in only:
            continue
        why = steps.lacks(asked, lacking, step, dict.fromkeys(names, "done") | states)
        absent = [each.step.name for each in result if each.step.name in step.after and each.why]
        why = why or (f"step {absent[0]} cannot be done" if absent else None)
        seconds = 0.0 if states.get(step.name) in KEPT else step.seconds[0] + step.seconds[1] * weights
        result.append(Planned(step, seconds, why))
    return result


def check_anything(plan: Sequence[Planned]) -> None:
    """Refuse a machine on which no step can be done.

    Raises:
        MachineError: Lists what each step lacks.
    """
    if all(each.why for each in plan):
        lines = "\n".join(f"  - {each.step.name}: {each.why}" for each in plan)
        raise MachineError(f"nothing of a trial can be done on this machine:\n{lines}", fix="luvc-export doctor")


def run(
    asked: Asked, minutes: float, only: Sequence[str] = (), progress: Progress = lambda stage, done: None
) -> Journal:
    """Do what is not done yet, for at most ``minutes``.

    Raises:
        UsageError: The folder holds another trial, or there is no such step.
        MachineError: Nothing can be done here.
        KeyboardInterrupt: Ctrl-C; what is done stays done.
    """
    end = monotonic() + 60 * minutes - _REPORT
    make_folder(asked.folder)
    check_own_names(asked.folder)
    with locked(asked.folder):
        journal = Journal.open(asked.folder, _identity(asked))
        plan = planned(asked, only, journal.states())
        check_anything(plan)
        lacking = machine.lacks(asked)
        steps.write_cases(asked.folder / "cases")
        journal.write("machine", _outcome("done", result=machine.facts()))
        for number, each in enumerate(plan):
            progress(each.step.title, number / len(plan))
            if journal.states().get(each.step.name) in KEPT:
                continue
            why = steps.lacks(asked, lacking, each.step, journal.states())
            left = end - monotonic()
            if why is None and left < each.seconds:
                why = f"it takes about {each.seconds:.0f} s, and {max(0.0, left):.0f} s were left"
            journal.write(each.step.name, _outcome("skipped", why=why) if why else _do(each.step, asked, left))
        journal.write("power-after", _outcome("done", result=machine.power()))
        progress("done", 1.0)
    return journal


def _identity(asked: Asked) -> dict[str, Any]:
    sized = {"canvas": [*asked.canvas]} if asked.canvas else {}
    return {"version": VERSION, "model": asked.model, "target": asked.target, **sized}


def _outcome(state: str, seconds: float = 0.0, why: str | None = None, result: Any = None) -> dict[str, Any]:
    return {"state": state, "seconds": seconds, "why": why, "result": result}


def _do(step: Step, asked: Asked, left: float) -> dict[str, Any]:
    """Run a step's verb for at most ``left`` seconds; what it said."""
    began, log = monotonic(), asked.folder / f"{step.name}.log"
    with fresh(log) as errors:
        process = subprocess.Popen(command(step, asked), stdout=subprocess.PIPE, stderr=errors, start_new_session=True)
        try:
            out, _ = process.communicate(timeout=left)
        except subprocess.TimeoutExpired:
            _end(process)
            return _outcome("cut off", monotonic() - began, "the time was over before it ended")
        except BaseException:
            _end(process)
            raise
    seconds = monotonic() - began
    try:
        data = json.loads(out.decode("utf-8").strip().splitlines()[-1]) if out.strip() else None
        if data is not None and process.returncode in (0, _FAILED):
            return _outcome("done", seconds, result=step.pick(data))
        why = _reason(log, process.returncode)
    except (ValueError, KeyError, TypeError) as error:
        why = f"its output cannot be read: {type(error).__name__}"
    return _outcome("failed", seconds, why)


def command(step: Step, asked: Asked) -> list[str]:
    """What runs a step: a verb in a process that ends with this one."""
    words = step.command(asked)
    output = ["--json"] if words[0] not in steps.PROGRAMS else []
    return [sys.executable, "-m", "luvc_export.cli.child", str(os.getpid()), *words, *output]


def _reason(log: Path, code: int) -> str:
    """The sentence of a verb's error that says what is wrong; the rest of it may name files."""
    lines = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
    with suppress(ValueError, KeyError, IndexError, TypeError):
        return str(json.loads(lines[-1])["error"]["what"]).splitlines()[0]
    return f"it ended with code {code}"


def _end(process: subprocess.Popen[bytes]) -> None:
    """End a verb and what it started, politely first."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        with suppress(ProcessLookupError):
            os.killpg(process.pid, number)
        with suppress(subprocess.TimeoutExpired):
            process.communicate(timeout=_GRACE)
            return
