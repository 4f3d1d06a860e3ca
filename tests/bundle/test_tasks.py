"""What ``luvc.json`` says of a bundle's task: nothing of one that generates, and nothing unknown is run."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from luvc_export.bundle.folder import Bundle
from luvc_export.bundle.manifest import Manifest
from luvc_export.core import tasks
from luvc_export.core.tasks import Embedding, PairPrompt
from luvc_export.errors import BundleError

HOW = Embedding(prompts={"query": "Find it."}, default_prompt="query", sizes=(8, 16))


@pytest.fixture
def embedding(demo_bundle: Bundle) -> Manifest:
    return replace(demo_bundle.manifest, task="embed", embedding=HOW, sets=())


def test_tasks_are_found_by_name() -> None:
    assert tasks.names() == ["embed", "embed-many", "generate", "rerank"]
    for name in tasks.names():
        assert tasks.find(name).name == name


def test_a_bundle_that_generates_is_written_as_before(demo_bundle: Bundle) -> None:
    """Versions without tasks go on reading it, and what they wrote is a bundle that generates."""
    data = demo_bundle.manifest.to_json()
    assert not data.keys() & {"task", "embedding"} and data["schema_version"] < 6
    again = Manifest.from_json(data, "luvc.json")
    assert (again.task, again.embedding, again.does.decodes) == ("generate", None, True)


def test_another_task_takes_the_newest_schema(embedding: Manifest) -> None:
    """Whose version older readers refuse."""
    data = embedding.to_json()
    assert (data["task"], data["schema_version"]) == ("embed", 6)
    assert Manifest.from_json(json.loads(json.dumps(data)), "luvc.json") == embedding


def test_a_bundle_that_judges_says_how(embedding: Manifest) -> None:
    how = Embedding(normalise=False, width=1, pair=PairPrompt("s", "i", "q", "d", "n"), labels=(1, 2))
    manifest = replace(embedding, task="rerank", embedding=how)
    assert manifest.row_width == 1
    data = json.loads(json.dumps(manifest.to_json()))
    assert Manifest.from_json(data, "luvc.json") == manifest
    for spoilt in ({"width": 2}, {"labels": None}, {"labels": [1, 2**30]}, {"labels": [-1, 2]}, {"pair": None}):
        with pytest.raises(BundleError, match="does not say how it embeds"):
            Manifest.from_json({**data, "embedding": data["embedding"] | spoilt}, "luvc.json")


def _named(name: str) -> Callable[[dict[str, Any]], object]:
    return lambda data: data.update(task=name)


@pytest.mark.parametrize(
    ("spoil", "wrong"),
    [
        (_named("judge"), "unknown task"),
        (_named("rerank"), "does not say how it embeds"),
        (_named("embedd"), "unknown task"),
        (_named("generate"), "does not say how it embeds"),
        (lambda data: data.update(embedding=None), "does not say how it embeds"),
        (lambda data: data["embedding"].update(default_prompt="other"), "does not say how it embeds"),
        (lambda data: data["embedding"].update(sizes=[16, 8]), "does not say how it embeds"),
        (lambda data: data["embedding"].update(sizes=[2**19]), "does not say how it embeds"),
        (lambda data: data["embedding"].update(sizes=[0]), "does not say how it embeds"),
        (lambda data: data["embedding"].update(width=1), "does not say how it embeds"),
        (lambda data: data["embedding"].update(width=2**19), "does not say how it embeds"),
        (lambda data: data["embedding"].update(labels=[1, 2]), "does not say how it embeds"),
        (lambda data: data["embedding"].update(pooling="max"), "pooling|wrong|value"),
    ],
)
def test_what_a_stranger_says_of_it(embedding: Manifest, spoil: Any, wrong: str) -> None:
    data = embedding.to_json()
    spoil(data)
    with pytest.raises(BundleError) as info:
        Manifest.from_json(data, "luvc.json")
    assert re.search(wrong, str(info.value))
