"""A suite of somebody else's against the server: what fails is listed in a JSON file, and why.

The file has the ``suite``'s name, names of ``tests`` by reason, and of each reason what the ``errors`` must say. A test
that fails without being listed, for another reason, or passes though it is listed, ends a run with exit code 1.
``$LUVC_WHOLE`` runs all of a suite of which else a part runs that is drawn by chance, always the same.
"""

from __future__ import annotations

import json
import os
import random
import re
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from common import report


class Outcomes:
    """What became of each test, and what is other than listed. A plugin of pytest's.

    Args:
        listed: The file.
        name_of: The name a test is listed by, of its place; several may share one.
        share: Of the tests that are run.
    """

    def __init__(self, listed: Path, name_of: Callable[[str], str], share: float) -> None:
        data = json.loads(listed.read_text(encoding="utf-8"))
        self.counts, self.wrong = Counter[str](), list[str]()
        self.suite: str = data["suite"]
        self._name_of, self._errors, self._there = name_of, data["errors"], set[str]()
        self._reasons = {name: reason for reason, names in data["tests"].items() for name in names}
        self._share = share

    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        """Draw, see pytest."""
        items[:] = random.Random(59).sample(items, round(self._share * len(items))) if self._share < 1 else items

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
        names = self._reasons.items() if self._share == 1 else ()
        return [f"{name} was not there, listed: {why}" for name, why in names if name not in self._there]


def by_function(place: str) -> str:
    """The last of a test's place."""
    return place.rpartition("::")[2]


def run(words: Sequence[str], listed: Path, name_of: Callable[[str], str] = by_function, share: float = 1.0) -> None:
    """Run a suite, and end with what is other than listed.

    Args:
        words: pytest's, beside those of all suites.
        listed: The file.
        name_of: See ``Outcomes``.
        share: The same.
    """
    outcomes = Outcomes(listed, name_of, 1.0 if os.environ.get("LUVC_WHOLE") else share)
    common = ["-q", "-p", "no:cacheprovider", "--tb=short", "--no-summary", "-W", "ignore"]
    pytest.main([*words, *common], plugins=[outcomes])
    counts, wrong = outcomes.counts, outcomes.wrong + outcomes.rest()
    skipped = f", {counts['skipped']} are skipped" if counts["skipped"] else ""
    report(outcomes.suite, f"{counts['passed']} of {counts.total() - counts['skipped']} tests pass{skipped}")
    print("\n".join(wrong) if wrong else f"what fails is what {listed.name} lists")
    raise SystemExit(bool(wrong))
