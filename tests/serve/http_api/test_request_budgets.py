"""What one request may take: work of its grammar, seconds of its pictures, letters of its texts."""

from __future__ import annotations

import gc
import time
import weakref
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import pytest
import tiny_bundle
from calling import Client, user
from running import serving

from luvc_export.demo.questions import cases
from luvc_export.errors import UsageError
from luvc_export.runtime.generation import grammar_trials
from luvc_export.runtime.prompt.template import ChatTemplate
from luvc_export.runtime.session import Session
from luvc_export.serve import asking
from luvc_export.serve.models import Models, ServedModel


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Any:
    session = Session(tiny_bundle.write(tmp_path_factory.mktemp("tiny") / "tiny"), "cpu", threads=1)
    with serving(Models([ServedModel("tiny", session)])) as (_, client):
        yield client


def refusal(client: Client, **more: Any) -> dict[str, Any]:
    reply = client.chat(**{"messages": [{"role": "user", "content": "a"}], "max_tokens": 3, **more})
    assert reply.status == 400, reply.body
    return dict(reply.json()["error"])


def test_a_schema_that_explodes_is_refused_by_name_and_others_do_not_notice(tiny: Client) -> None:
    exploding = {"guided_json": {"type": "integer", "multipleOf": 999979}}
    other = replace(tiny, source="127.0.0.9")
    with ThreadPoolExecutor(4) as pool:
        refused = [pool.submit(refusal, tiny, **exploding) for _ in range(4)]
        time.sleep(0.3)
        begin = time.monotonic()
        for _ in range(5):
            assert other.chat(messages=[{"role": "user", "content": "a"}], max_tokens=3).status == 200
            assert other.chat(messages=[{"role": "user", "content": "a"}], max_tokens=3, guided_regex="a").text == "a"
        assert not all(one.done() for one in refused) or time.monotonic() - begin < 10  # the lock was held for 15 s
        errors = [one.result() for one in refused]
    assert {error["param"] for error in errors} == {"guided_json"}
    for part in ("this takes too much work to compile", "expected: at most 2 s and 32 MiB to compile", "fix: simplify"):
        assert all(part in error["message"] for error in errors), errors


def test_a_schema_that_is_too_long_is_refused_before_it_is_read(tiny: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(grammar_trials.GrammarTrials, "_tried", None)
    large = {"properties": {f"p{number}": {} for number in range(40_000)}}
    for asked in (large, str(large)):
        error = refusal(tiny, guided_json=asked)
        assert error["param"] == "guided_json" and "expected: at most 100,000; fix: " in error["message"], error


def test_texts_that_cannot_fit_are_not_written_as_a_prompt(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    """Four bodies of 31 MiB took the server a gigabyte."""
    monkeypatch.setattr(ChatTemplate, "render", None)
    content = [{"type": "text", "text": "a" * 2**19}] * 4
    for messages in ([{"role": "user", "content": "a" * 2**21}], [{"role": "user", "content": content}]):
        error = refusal(client, model="demo", messages=messages)
        assert "longer than the bundle's text capacity; got: 2,097,152 letters" in error["message"], error


def test_pictures_of_a_request_have_seconds_together(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(asking, "MOST_SECONDS", -1.0)
    case = next(cases("heldout", 1, 0, ("where_is",)))
    error = refusal(client, model="demo", messages=user(case.prompt, *case.images))
    words = (
        "the pictures and films before this one took 0 s to read; expected: at most -1 s for those of a request; fix:"
    )
    assert words in error["message"] and error["code"] == "images_too_slow"
    assert error["param"] == "messages[0].content[0]"


def test_a_film_is_refused_before_it_is_decoded_where_the_bundle_takes_none(
    client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ten seconds of a helper, and then: this bundle takes no video."""
    monkeypatch.setattr(asking, "open_video", None)
    url = "data:video/mp4;base64,AAAA"
    for part in (
        {"video_url": {"url": url}, "type": "video_url"},
        {"video": ["data:image/png;base64,A"], "type": "video"},
    ):
        error = refusal(client, model="demo", messages=[{"role": "user", "content": [part]}])
        assert "this bundle takes no video; got: a bundle of qwen2_5_vl" in error["message"], error
        assert error["param"] == "messages[0].content[0]"


def test_a_refused_request_holds_nothing_afterwards(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its error held the frames that had its pictures, and they held it, until garbage was collected: 290 MiB."""
    held = list[Any]()

    class Decoded:
        def refused(self) -> None:
            raise UsageError("these are no pictures")

    def opened(*_: Any) -> Any:
        decoded = Decoded()
        held.append(weakref.ref(decoded))
        decoded.refused()

    monkeypatch.setattr(asking, "open_medium", opened)
    case = next(cases("heldout", 1, 0, ("where_is",)))
    gc.disable()
    try:
        assert (
            "these are no pictures"
            in refusal(client, model="demo", messages=user(case.prompt, *case.images))["message"]
        )
        end = time.monotonic() + 10
        while held[0]() is not None and time.monotonic() < end:
            time.sleep(0.05)
        assert held[0]() is None
    finally:
        gc.enable()
