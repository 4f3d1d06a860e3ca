"""What is done of a trial, in ``journal.json`` of its folder, written after every step: an interrupted trial goes on.

A step is ``done`` (with what its verb said), ``failed`` (its verb said why), ``skipped`` (with the reason), or ``cut
off`` where the time was over while it ran. Only the first two are kept when a trial goes on: what was missing, or too
late, may be there this time.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from luvc_export.core.files.json_file import read_json
from luvc_export.core.files.safe_files import write_whole
from luvc_export.errors import UsageError

_NAME = "journal.json"
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
        path = folder / _NAME
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
        write_whole(self.folder / _NAME, json.dumps({"asked": self.asked, "steps": self.steps}, indent=1) + "\n")

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
