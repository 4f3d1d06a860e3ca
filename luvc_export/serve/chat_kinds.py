"""What preparing a chat takes, seen before anything of it is decoded: its kind of place (``preparation``)."""

from __future__ import annotations

import base64
import binascii

from luvc_export.runtime.media.pictures import EXACT_PIXELS, pixels_to_decode
from luvc_export.serve.interfaces.protocol import ChatRequest, ImagePart, RefusalPart, TextFormat, TextPart
from luvc_export.serve.preparation import Kind

#: Letters of addresses, together, of pictures that are quickly decoded.
_MOST_LETTERS = 8 * 2**20
#: Pixels of a PNG that is decoded in the server (``runtime.media.decoding``).
_MOST_PIXELS = 2**22
#: Letters of base64 that hold a picture's kind and a PNG's size, and those that hold a photograph's size.
_HEAD, _JPEG_HEAD = 32, 2**19


def kind_of(chat: ChatRequest) -> Kind:
    """``text``, ``pictures`` that are decoded at once, or ``media``, for which a helper may take its seconds.

    Of one who says that a picture is another than it is, decoding says so at once.
    """
    contents = (message.content for message in chat.messages if not isinstance(message.content, str))
    shown = [part for content in contents for part in content or () if not isinstance(part, TextPart | RefusalPart)]
    if not shown:
        return "text"
    addresses = [_address(part) for part in shown if isinstance(part, ImagePart)]
    quick = len(addresses) == len(shown) and sum(map(len, addresses)) <= _MOST_LETTERS
    return "pictures" if quick and all(map(_is_quick, addresses)) else "media"


def _address(part: ImagePart) -> str:
    return part.image_url if isinstance(part.image_url, str) else part.image_url.url


def _is_quick(address: str) -> bool:
    """A JPEG as large as cameras make them, or a PNG of few pixels, by its first bytes."""
    head, _, data = address[: 200 + _HEAD].partition(",")
    if not head.lower().startswith("data:"):
        return False
    start = len(head) + 1
    try:
        first = base64.b64decode(data[:_HEAD])
        if first.startswith(b"\x89PNG\r\n\x1a\n") and len(first) == 24:
            width, height = int.from_bytes(first[16:20], "big"), int.from_bytes(first[20:24], "big")
            return width * height <= _MOST_PIXELS
        if not first.startswith(b"\xff\xd8"):
            return False
        return 0 < pixels_to_decode(base64.b64decode(address[start : start + _JPEG_HEAD]), None) <= EXACT_PIXELS
    except (binascii.Error, ValueError):
        return False


def is_guided(chat: ChatRequest) -> bool:
    """Whether a request may have a grammar, which is compiled."""
    if chat.tools and chat.tool_choice != "none":
        return True
    named = (chat.structured_outputs, chat.guided_json, chat.guided_regex, chat.guided_choice, chat.guided_grammar)
    shape = None if isinstance(chat.response_format, TextFormat) else chat.response_format
    return any(one is not None for one in (shape, *named))
