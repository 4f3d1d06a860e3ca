"""LangChain's standard tests of a chat model (langchain-tests) against the server: what fails is listed, and why.

``langchain_standard.json`` has the reasons by test (``listed``).
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

from common import Facts, facts
from langchain_core.language_models import BaseChatModel
from langchain_openai import ChatOpenAI
from langchain_tests.integration_tests import ChatModelIntegrationTests
from listed import run


class TestServer(ChatModelIntegrationTests):
    """The suite as it is, pictures included. Its unit tests ask nothing of a server."""

    @property
    def chat_model_class(self) -> type[BaseChatModel]:
        """LangChain's own for servers that speak as OpenAI's does."""
        return ChatOpenAI

    @property
    def chat_model_params(self) -> dict[str, Any]:
        """Where the server is, and that streams carry usage, which LangChain leaves out where there is a base_url.

        The bundled model ends few texts by itself: they are cut sooner.
        """
        where = {"base_url": os.environ["LUVC_URL"], "api_key": "none", "timeout": 120}
        return {"model": os.environ["LUVC_MODEL"], "stream_usage": True, "max_tokens": 150, **where}

    @property
    def supports_image_inputs(self) -> bool:
        """Pictures."""
        return True


def main(facts: Facts) -> None:
    """Run the suite; clients are kept from one test to the next."""
    os.environ["LUVC_URL"], os.environ["LUVC_MODEL"] = facts["url"], facts["model"]
    words = ["-o", "asyncio_mode=auto", "-o", "asyncio_default_test_loop_scope=session"]
    run([__file__, *words, *sys.argv[1:]], Path(__file__).with_suffix(".json"))


if __name__ == "__main__":
    main(facts())
