"""A trial: one step after another, each in a process of its own, inside the minutes that were given."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from time import monotonic
from typing import Any

from luvc_export.core.files.folders import check_own_names, fresh, make_folder
from luvc_export.core.files.safe_files import locked
from luvc_export.core.progress import Progress
from luvc_export.errors import MachineError, UsageError, did_you_mean
from luvc_export.trial import cases, machine, steps
from luvc_export.trial.journal import KEPT, Journal
from luvc_export.trial.steps import Asked, Step
from luvc_export.version import VERSION

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
        cases.write(asked.folder / "cases")
        journal.write("machine", {"state": "done", "seconds": 0.0, "why": None, "result": machine.facts()})
        for number, each in enumerate(plan):
            progress(each.step.title, number / len(plan))
            if journal.states().get(each.step.name) in KEPT:
                continue
            why = steps.lacks(asked, lacking, each.step, journal.states())
            left = end - monotonic()
            if why is None and left < each.seconds:
                why = f"it takes about {each.seconds:.0f} s, and {max(0.0, left):.0f} s were left"
            journal.write(each.step.name, _skipped(why) if why else _do(each.step, asked, left))
        journal.write("power-after", {"state": "done", "seconds": 0.0, "why": None, "result": machine.power()})
        progress("done", 1.0)
    return journal


def _identity(asked: Asked) -> dict[str, Any]:
    sized = {"canvas": [*asked.canvas]} if asked.canvas else {}
    return {"version": VERSION, "model": asked.model, "target": asked.target, **sized}


def _skipped(why: str) -> dict[str, Any]:
    return {"state": "skipped", "seconds": 0.0, "why": why, "result": None}


def _do(step: Step, asked: Asked, left: float) -> dict[str, Any]:
    """Run a step's verb for at most ``left`` seconds; what it said."""
    began, log = monotonic(), asked.folder / f"{step.name}.log"
    with fresh(log) as errors:
        process = subprocess.Popen(command(step, asked), stdout=subprocess.PIPE, stderr=errors, start_new_session=True)
        try:
            out, _ = process.communicate(timeout=left)
        except subprocess.TimeoutExpired:
            _end(process)
            why = "the time was over before it ended"
            return {"state": "cut off", "seconds": monotonic() - began, "why": why, "result": None}
        except BaseException:
            _end(process)
            raise
    seconds = monotonic() - began
    try:
        data = json.loads(out.decode("utf-8").strip().splitlines()[-1]) if out.strip() else None
        if data is not None and process.returncode in (0, _FAILED):
            return {"state": "done", "seconds": seconds, "why": None, "result": step.pick(data)}
        why = _reason(log, process.returncode)
    except (ValueError, KeyError, TypeError) as error:
        why = f"its output cannot be read: {type(error).__name__}"
    return {"state": "failed", "seconds": seconds, "why": why, "result": None}


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
