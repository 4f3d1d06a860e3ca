"""A suite of somebody else's against the server: what fails is listed in a JSON file, and why.

The file has names of ``tests`` by reason, and of each reason what the ``errors`` must say. A test that fails without being
listed, for another reason, or passes though it is listed, ends a run with exit code 1.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest


class Outcomes:
    """What became of each test, and what is other than listed. A plugin of pytest's.

    Args:
        listed: The file.
        name_of: The name a test is listed by, of its place; several may share one.
    """

    def __init__(self, listed: Path, name_of: Callable[[str], str]) -> None:
        data = json.loads(listed.read_text(encoding="utf-8"))
        self.counts, self.wrong = Counter[str](), list[str]()
        self._name_of, self._errors, self._there = name_of, data["errors"], set[str]()
        self._reasons = {name: reason for reason, names in data["tests"].items() for name in names}

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """See pytest."""
        if report.when != "call" and report.outcome == "passed":
            return
        self.counts[report.outcome] += 1
        name, error = self._name_of(report.nodeid), str(report.longrepr)
        self._there.add(name)
        reason = self._reasons.get(name)
        if report.outcome == "failed" and (reason is None or not re.search(self._errors[reason], error)):
            self.wrong.append(f"{name} fails, listed: {reason}\n{error}")
        if report.outcome != "failed" and reason is not None:
            self.wrong.append(f"{name} is {report.outcome}, listed: {reason}")

    def rest(self) -> list[str]:
        """What is listed and was not there."""
        return [f"{name} was not there, listed: {why}" for name, why in self._reasons.items() if name not in self._there]


def run(
    words: Sequence[str], listed: Path, name_of: Callable[[str], str] = lambda place: place.rpartition("::")[2]
) -> None:
    """Run a suite, and end with what is other than listed.

    Args:
        words: pytest's, beside those of all suites.
        listed: The file.
        name_of: See ``Outcomes``.
    """
    outcomes = Outcomes(listed, name_of)
    common = ["-q", "-p", "no:cacheprovider", "--tb=short", "--no-summary", "-W", "ignore"]
    pytest.main([*words, *common], plugins=[outcomes])
    print(", ".join(f"{count} {outcome}" for outcome, count in outcomes.counts.items()))
    wrong = outcomes.wrong + outcomes.rest()
    print("\n".join(wrong) if wrong else f"what fails is what {listed.name} lists")
    raise SystemExit(bool(wrong))
