"""A trial's report as data: what was found and the verdicts, without a path, a name or a weight; and its hash.

The hash finds a figure that was changed by mistake or by hand. It is no signature: whoever writes a report can write
its hash, and nobody vouches for it.
"""

from __future__ import annotations

import contextlib
import getpass
import hashlib
import json
import platform
import re
from collections.abc import Iterator, Set
from pathlib import Path
from typing import Any

from luvc_export.errors import CheckFailed, UsageError
from luvc_export.trial.claims import judge
from luvc_export.trial.journal import Journal
from luvc_export.trial.steps import STEPS

SCHEMA = 1
#: Own steps of the runner, beside those of ``steps.STEPS``.
_OWN = ("machine", "power-after")
_PATH = re.compile(r"(^|[\s\"'=:(])(/|~/|[A-Za-z]:\\|\\\\)[^\s/\\]+[/\\]")
#: Names that say nothing of anybody, and would be found everywhere.
_COMMON = {"root", "user", "localhost", "ubuntu", "nvidia", "admin", "runner"}


def make(journal: Journal) -> dict[str, Any]:
    """The report.

    Raises:
        UsageError: A result of a step in the journal is not what its verb says.
        CheckFailed: Something in it looks like a path, or names this host or user: it is not written.
    """
    with figures_of(str(journal.folder)):
        return _made(journal)


@contextlib.contextmanager
def figures_of(where: str) -> Iterator[None]:
    """While results of steps are read, which came from a file.

    Raises:
        UsageError: One of them is not what its verb says.
    """
    try:
        yield
    except (LookupError, TypeError, ValueError, ArithmeticError, StopIteration, RuntimeError, AttributeError) as error:
        raise UsageError(
            "the journal of this trial lacks figures",
            where=where,
            got=f"{type(error).__name__}: {error}",
            fix="give the trial a folder of its own: --out FOLDER",
        ) from error


def _made(journal: Journal) -> dict[str, Any]:
    names = [*_OWN, *(step.name for step in STEPS)]
    results = {name: _step(journal.steps[name]) for name in names if name in journal.steps}
    whole = {
        "schema": SCHEMA,
        "version": journal.asked["version"],
        "target": journal.asked["target"],
        "steps": results,
        "verdicts": [line.to_json() for line in judge(results)],
    }
    whole = json.loads(json.dumps(whole), parse_constant=str)
    private = list(told_too_much(whole, own_names()))
    if private:
        raise CheckFailed("the report would say more than it should", got="; ".join(private[:3]), fix="report this")
    return {**whole, "sha256": digest(whole)}


def digest(report: dict[str, Any]) -> str:
    """SHA-256 of a report without its own hash, as JSON with sorted keys and no spaces."""
    rest = {key: value for key, value in report.items() if key != "sha256"}
    text = json.dumps(rest, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return hashlib.sha256(text.encode("ascii")).hexdigest()


def told_too_much(value: Any, names: Set[str] = frozenset(), where: str = "") -> Iterator[str]:
    """Where text of a report holds a path, or one of ``names``."""
    if isinstance(value, dict):
        for key, item in value.items():
            yield from told_too_much(item, names, f"{where}.{key}")
    elif isinstance(value, list):
        for index, item in enumerate(value):
            yield from told_too_much(item, names, f"{where}[{index}]")
    elif isinstance(value, str):
        words = {word.lower() for word in re.split(r"[^\w-]+", value)}
        if _PATH.search(value) or words & names:
            yield where.lstrip(".")


def own_names() -> set[str]:
    """Names of this host and this user, but for those that say nothing of anybody."""
    names = {platform.node().split(".")[0].lower(), Path.home().name.lower()}
    with contextlib.suppress(OSError, KeyError, ImportError):
        names.add(getpass.getuser().lower())
    return {name for name in names if len(name) > 2} - _COMMON


def _step(step: dict[str, Any]) -> dict[str, Any]:
    return {key: step[key] for key in ("state", "seconds", "why", "result")}
