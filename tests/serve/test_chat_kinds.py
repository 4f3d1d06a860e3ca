"""What preparing a chat takes, seen before anything of it is decoded."""

from __future__ import annotations

import base64
import io
import json
from typing import Any

import pytest
from PIL import Image

from luvc_export.serve.http.admission import is_guided, kind_of
from luvc_export.serve.interfaces.protocol import parse


def chat(*parts: Any, **more: Any) -> Any:
    content = [{"type": "text", "text": "a"}, *parts]
    return parse(json.dumps({"messages": [{"role": "user", "content": content}], **more}).encode())[0]


def picture(form: str, side: int = 8) -> dict[str, Any]:
    buffer = io.BytesIO()
    Image.new("RGB", (side, side)).save(buffer, form)
    address = f"data:image/{form.lower()};base64," + base64.b64encode(buffer.getvalue()).decode()
    return {"type": "image_url", "image_url": {"url": address}}


def named(url: str) -> dict[str, Any]:
    return {"type": "image_url", "image_url": {"url": url}}


@pytest.mark.parametrize(
    ("parts", "kind"),
    [
        ([], "text"),
        ([picture("PNG"), picture("JPEG")], "pictures"),
        ([picture("PNG", 2048)], "pictures"),
        ([picture("PNG", 2049)], "media"),
        ([picture("JPEG", 4096)], "pictures"),
        ([picture("JPEG", 4097)], "media"),
        ([picture("JPEG"), picture("WEBP")], "media"),
        ([picture("GIF")], "media"),
        ([named("https://example.org/a.png")], "media"),
        ([named("data:image/png;base64,!")], "media"),
        ([named("data:image/jpeg;base64,/9j/" + "A" * 2**23)], "media"),
        ([picture("PNG"), {"type": "video_url", "video_url": {"url": "data:video/mp4;base64,AAAA"}}], "media"),
    ],
)
def test_pictures_that_are_quick_do_not_wait_for_what_is_slow(parts: list[Any], kind: str) -> None:
    """Three films, each of another client, held every place for pictures for a minute."""
    assert kind_of(chat(*parts)) == kind


def test_what_has_a_grammar() -> None:
    assert not is_guided(chat()) and not is_guided(chat(response_format={"type": "text"}))
    assert is_guided(chat(response_format={"type": "json_object"})) and is_guided(chat(guided_regex="a"))
    assert is_guided(chat(structured_outputs={"choice": ["a"]}))
