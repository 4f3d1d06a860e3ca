"""LangChain's standard tests of a chat model (langchain-tests) against the server: what fails is listed, and why.

``langchain_standard.json`` has the reasons by test. One that fails without being listed, for another reason, or passes
though it is listed, ends this with exit code 1.
"""

from __future__ import annotations

import json
import os
import re
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from common import Facts, facts
from langchain_core.language_models import BaseChatModel
from langchain_openai import ChatOpenAI
from langchain_tests.integration_tests import ChatModelIntegrationTests

#: What an error must say, by its reason, and for each reason the tests that fail for it.
LISTED = json.loads(Path(__file__).with_suffix(".json").read_text(encoding="utf-8"))


class TestServer(ChatModelIntegrationTests):
    """The suite as it is, pictures included. Its unit tests ask nothing of a server."""

    @property
    def chat_model_class(self) -> type[BaseChatModel]:
        """LangChain's own for servers that speak as OpenAI's does."""
        return ChatOpenAI

    @property
    def chat_model_params(self) -> dict[str, Any]:
        """Where the server is, and that streams carry usage, which LangChain leaves out where there is a base_url."""
        where = {"base_url": os.environ["LUVC_URL"], "api_key": "none", "timeout": 120}
        return {"model": os.environ["LUVC_MODEL"], "stream_usage": True, **where}

    @property
    def supports_image_inputs(self) -> bool:
        """Pictures."""
        return True


class Outcomes:
    """What became of each test, and what is other than listed."""

    def __init__(self) -> None:
        self.counts, self.wrong = Counter[str](), list[str]()
        self._reasons = {name: reason for reason, names in LISTED["tests"].items() for name in names}

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """See pytest."""
        if report.when != "call" and report.outcome == "passed":
            return
        self.counts[report.outcome] += 1
        name, error = report.nodeid.rpartition("::")[2], str(report.longrepr)
        reason = self._reasons.pop(name, None)
        if report.outcome == "failed" and (reason is None or not re.search(LISTED["errors"][reason], error)):
            self.wrong.append(f"{name} fails, listed: {reason}\n{error}")
        if report.outcome != "failed" and reason is not None:
            self.wrong.append(f"{name} is {report.outcome}, listed: {reason}")

    def rest(self) -> list[str]:
        """What is listed and was not there."""
        return [f"{name} was not there, listed: {reason}" for name, reason in self._reasons.items()]


def main(facts: Facts) -> None:
    """Run the suite."""
    os.environ["LUVC_URL"], os.environ["LUVC_MODEL"] = facts["url"], facts["model"]
    outcomes = Outcomes()
    words = ["-q", "-p", "no:cacheprovider", "--tb=short", "--no-summary", "-W", "ignore", "-o", "asyncio_mode=auto"]
    words += ["-o", "asyncio_default_test_loop_scope=session"]  # clients are kept from one test to the next
    pytest.main([__file__, *words], plugins=[outcomes])
    print(", ".join(f"{count} {outcome}" for outcome, count in outcomes.counts.items()))
    wrong = outcomes.wrong + outcomes.rest()
    print("\n".join(wrong) if wrong else "what fails is what langchain_standard.json lists")
    raise SystemExit(bool(wrong))


if __name__ == "__main__":
    main(facts())
