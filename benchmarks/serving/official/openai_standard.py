"""openai-python's own tests of the paths that are served, of its source package beside this environment.

They are made for a server that answers whatever it is asked: models and responses have names that are nobody's. Ours
are put in their place, and all else is as they ask it. ``openai_standard.json`` has what fails and why, by path and
function: each runs with plain and strict types, synchronous and not, and over two HTTP libraries. A tenth is run; all
with ``$LUVC_WHOLE``, of those that pytest's own options choose.
"""

from __future__ import annotations

import json
import os
import re
import sys
import urllib.request
from pathlib import Path
from typing import Any
from urllib.parse import quote

from common import Facts, facts
from listed import run
from openai._base_client import AsyncAPIClient, SyncAPIClient

#: Of its tests those of our paths.
FILES = ("test_completions", "chat/test_completions", "test_responses", "test_models")

SHORT = {"/chat/completions": {"max_completion_tokens": 4}, "/responses": {"max_output_tokens": 4}}


def main(facts: Facts) -> None:
    """Run them."""
    os.environ["TEST_API_BASE_URL"] = facts["url"]
    name_ours(facts)
    (folder,) = (Path(sys.prefix) / "sdist").glob("openai-*/")
    os.chdir(folder)
    sys.path.insert(0, str(folder))
    files = [f"tests/api_resources/{file}.py" for file in FILES]
    run([*files, "-o", "addopts=", *sys.argv[1:]], Path(__file__).with_suffix(".json"), name_of, share=0.1)


def name_of(place: str) -> str:
    """``responses delete`` of the place of ``test_method_delete[loose]`` among the tests of responses."""
    path, _, test = place.partition("::")
    way = re.sub(r"\[.*|^test_(method_|raw_response_|streaming_response_)?", "", test.rpartition("::")[2])
    return f"{path.removeprefix('tests/api_resources/').removesuffix('.py').replace('test_', '')} {way}"


def name_ours(facts: Facts) -> None:
    """Have each request name our model or a response that is stored, and want a short answer where it says nothing."""

    def changed(options: Any) -> Any:
        if isinstance(options.json_data, dict) and "model" in options.json_data:
            options.json_data = {**SHORT.get(options.url, {}), **options.json_data, "model": facts["model"]}
        options.url = re.sub(r"^/models/gpt[^/]*$", "/models/" + quote(facts["model"], safe=""), options.url)
        if options.url.startswith("/responses/resp_"):
            options.url = re.sub(r"resp_\w+", stored(facts), options.url)
        return options

    sync, later = SyncAPIClient._prepare_options, AsyncAPIClient._prepare_options

    async def prepare(self: AsyncAPIClient, options: Any) -> Any:
        return changed(await later(self, options))

    SyncAPIClient._prepare_options = lambda self, options: changed(sync(self, options))  # type: ignore[method-assign]
    AsyncAPIClient._prepare_options = prepare  # type: ignore[method-assign]


def stored(facts: Facts) -> str:
    """Id of a response, made with the key that the tests send."""
    body = json.dumps({"model": facts["model"], "input": "Hello", "max_output_tokens": 1}).encode()
    headers = {"content-type": "application/json", "authorization": "Bearer My API Key"}
    with urllib.request.urlopen(urllib.request.Request(facts["url"] + "/responses", body, headers)) as reply:
        return str(json.load(reply)["id"])


if __name__ == "__main__":
    main(facts())
