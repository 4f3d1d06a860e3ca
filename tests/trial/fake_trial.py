"""A whole trial whose steps take no model: ``python fake_trial.py FOLDER STEP_SECONDS``. What steps say is made up.

It is killed by ``test_trial_run``; a step notes its start in ``FOLDER/started``, so that one that ran twice shows.
"""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path

from trial_results import made_results

from luvc_export.trial import machine, run, steps
from luvc_export.trial.steps import Asked, Step

FOLDER, SECONDS = Path(sys.argv[1]), float(sys.argv[2])
_STEP = """
import sys, time
from luvc_export.cli.child import end_with
end_with(int(sys.argv[1]))
open(sys.argv[2], "a").write(sys.argv[3] + "\\n")
time.sleep(float(sys.argv[4]))
open(sys.argv[2] + ".ended", "a").write(sys.argv[3] + "\\n")
print(sys.argv[5])
"""


def command(step: Step, asked: Asked) -> list[str]:
    import os

    printed = json.dumps(made_results()[step.name])
    return [sys.executable, "-c", _STEP, str(os.getpid()), str(FOLDER / "started"), step.name, str(SECONDS), printed]


def main() -> None:
    run.command = command  # type: ignore[assignment]
    machine.lacks = lambda asked: dict.fromkeys(("export", "cpu", "library", "gpu", "any-gpu", "checkout"))  # type: ignore[assignment]
    machine.weights_gib = lambda model: 0.0  # type: ignore[assignment]
    machine.facts = lambda: {"device": "made up"}  # type: ignore[assignment]
    machine.power = lambda: {}  # type: ignore[assignment]
    steps.write = lambda folder: folder  # type: ignore[assignment]
    steps.STEPS = tuple(  # type: ignore[misc]
        replace(step, seconds=(0.1, 0), pick=lambda record: record) for step in steps.STEPS
    )
    run.run(Asked("model", "rtx-ada", FOLDER), minutes=30)


if __name__ == "__main__":
    main()
