"""The page in a real browser: a picture is dropped, a question asked by keyboard, the answer and the survivors seen.

Where there is no browser the tests are skipped; .ci/run installs one. ``LUVC_SCREENSHOTS=FOLDER`` keeps pictures of it.
"""

from __future__ import annotations

import base64
import hashlib
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from browser import Browser, find
from calling import Client, data_uri

from luvc_export.demo.questions import cases
from luvc_export.runtime.session import Session
from luvc_export.serve.http.security import page

SIZES = {"wide": ((1280, 900), False), "phone": ((390, 844), True)}

DROP = """
(() => {
  const bytes = Uint8Array.from(atob("%s"), c => c.charCodeAt(0));
  const data = new DataTransfer();
  data.items.add(new File([bytes], "picture.png", { type: "image/png" }));
  document.dispatchEvent(new DragEvent("drop", { dataTransfer: data, cancelable: true }));
})()
"""


@pytest.fixture(params=list(SIZES))
def browser(request: pytest.FixtureRequest, tmp_path: Path, client: Client) -> Iterator[tuple[str, Browser]]:
    program = find()
    if program is None:
        pytest.skip("there is no browser here")
    size, mobile = SIZES[request.param]
    with Browser(program, tmp_path / "profile", size, mobile) as opened:
        opened.open(f"http://127.0.0.1:{client.port}/")
        opened.wait("document.querySelectorAll('#model option').length === 2")
        yield request.param, opened


def drop(browser: Browser, case: Any, wanted: int) -> None:
    browser.run(DROP % data_uri(case.images[0]).partition(",")[2])
    browser.wait(f"document.querySelectorAll('#shots img').length === {wanted}")


def ask(browser: Browser, text: str) -> None:
    browser.run("document.getElementById('ask').focus()")
    browser.type(text)
    browser.press("Enter", "\r")
    browser.wait("!document.getElementById('send').disabled")


def answers(browser: Browser) -> list[str]:
    texts: list[str] = browser.run("[...document.querySelectorAll('.turn:not(.asked) .text')].map(e => e.textContent)")
    return texts


def test_ask_and_see(browser: tuple[str, Browser], demo_session: Session) -> None:
    name, opened = browser
    case = next(cases("heldout", 1, 0, ("where_is",)))
    alone = demo_session.generate(list(case.images), case.prompt)
    opened.run("document.getElementById('other').value = 'demo#none'")
    drop(opened, case, 1)
    ask(opened, case.prompt)
    assert answers(opened) == [alone.text, case.answer]
    opened.wait("document.getElementById('canvas').dataset.alive")
    layer = min(alone.selection.kept)
    kept = set(alone.selection.kept[layer][0].tolist())
    assert alone.selection.merged_into is not None
    alive = sum(int(token) in kept for token in alone.selection.merged_into[0])
    assert int(opened.run("document.getElementById('canvas').dataset.alive")) == alive
    note = opened.run("document.getElementById('layersaid').textContent")
    assert note == f"Into layer {layer}: {len(kept)} of {demo_session.plan.vision_tokens} tokens"
    figures = opened.run("[...document.querySelectorAll('#figures tr')].map(e => e.innerText.split(/\\s*\\t\\s*/))")
    assert ["visual tokens before", "108", "108"] in figures
    opened.run("document.getElementById('clear').click()")
    drop(opened, case, 1)
    ask(opened, case.prompt)
    figures = opened.run("[...document.querySelectorAll('#figures tr')].map(e => e.innerText.split(/\\s*\\t\\s*/))")
    cached = {row[0]: row[1:] for row in figures}
    assert cached["encoder, ms"] == cached["prefill to the picture, ms"] == ["cached"] * 2
    assert "first token, picture cached, ms" in cached and "first token, computed, ms" not in cached
    opened.run("document.getElementById('layer').focus()")
    opened.press("ArrowLeft")
    opened.wait("document.getElementById('layersaid').textContent.includes('units merged')")
    opened.press("ArrowRight")
    second = next(cases("heldout", 1, 5, ("digit_of_colour",)))
    drop(opened, second, 1)
    ask(opened, second.prompt)
    assert len(answers(opened)) == 4 and opened.run("document.querySelectorAll('#which option').length") == 2
    wide = opened.run("[document.documentElement.scrollWidth, window.innerWidth]")
    assert wide[0] <= wide[1], "nothing is cut off at the right"
    assert opened.complaints() == []
    if folder := os.environ.get("LUVC_SCREENSHOTS"):
        opened.picture(Path(folder) / f"{name}.png")


def test_an_error_is_seen_and_the_question_kept(browser: tuple[str, Browser]) -> None:
    opened = browser[1]
    ask(opened, "<|image_pad|>")
    assert "places for 1 pictures" in answers(opened)[0]
    assert opened.run("document.getElementById('ask').value") == "<|image_pad|>"


def test_everything_is_reached_by_keyboard(browser: tuple[str, Browser]) -> None:
    opened, reached = browser[1], []
    opened.run("document.getElementById('model').focus()")
    for _ in range(8):
        reached.append(opened.run("document.activeElement.id"))
        opened.press("Tab")
    assert reached[:7] == ["model", "other", "ask", "send", "add", "clear", "temperature"]


def test_the_policy_allows_the_page_alone(client: Client) -> None:
    reply = client.call("GET", "/")
    policy = reply.headers["content-security-policy"]
    assert "default-src 'none'" in policy and "unsafe" not in policy and "http" not in policy
    body, policy_of_page = page()
    assert (reply.body, policy) == (body, policy_of_page)
    script = re.findall(rb"<script>(.*?)</script>", body, re.DOTALL)
    digest = base64.b64encode(hashlib.sha256(script[0]).digest()).decode()
    assert len(script) == 1 and f"script-src 'sha256-{digest}'" in policy
    assert not re.search(rb"\son[a-z]+=|\sstyle=|https?://|@import|url\(", body), "what the policy would refuse"
