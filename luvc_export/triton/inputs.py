"""Tensors of a request -> a question and how it is sampled. Nothing a client sends is ever taken for a path."""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any, Literal

from luvc_export.errors import UsageError
from luvc_export.runtime.engine.vector_form import VectorOptions
from luvc_export.runtime.generation.sampling import OPTIONS
from luvc_export.runtime.media.video import DEFAULT_FPS, DEFAULT_FRAMES, check_fps, open_video
from luvc_export.runtime.prompt.question import Question, VideoClip
from luvc_export.runtime.prompt.request_fields import check_fields, check_messages
from luvc_export.serve.media.addresses import data_bytes
from luvc_export.triton.config import INPUTS

#: The elements of an input tensor, or None where there is none.
Get = Callable[[str], "Sequence[Any] | None"]

#: Pictures of a request; a clip counts as one.
MAX_IMAGES = 16
#: Of a model that decodes nothing, inputs of a request.
MAX_INPUTS = 256
#: Frames of a clip that come as pictures.
MAX_FRAMES = 256
_ROLES = ("system", "user", "assistant")


def question_from(get: Get, frames: Callable[[], int] = lambda: DEFAULT_FRAMES) -> Question:
    """What is asked: ``prompt`` after ``image`` and ``video``, or ``messages`` in OpenAI's or Hugging Face's form.

    Args:
        get: Reads a tensor.
        frames: How many frames of a film are looked at; asked where there is one.

    Raises:
        UsageError: Neither or both, or they are not of that form.
        ApiError: A ``data:`` address is none.
        MachineError: A film, and PyAV is not installed.
    """
    pictures, prompt, messages = [picture(item) for item in get("image") or ()], _text(get, "prompt"), get("messages")
    if (prompt is None) == (messages is None):
        raise UsageError("give a prompt or messages", where="prompt", got="neither" if prompt is None else "both")
    shown = clip(get, frames)
    clips = [] if shown is None else [shown]
    chat: list[dict[str, Any]]
    media: list[bytes | VideoClip]
    if prompt is not None:
        kinds = ["image"] * len(pictures) + ["video"] * len(clips)
        chat = [{"role": "user", "content": [*({"type": kind} for kind in kinds), {"type": "text", "text": prompt}]}]
        media = [*pictures, *clips]
    else:
        chat, media = _chat(str(_text(get, "messages")), pictures, clips)
    if len(media) > MAX_IMAGES:
        raise UsageError("too many pictures", where="image", got=len(media), expected=f"at most {MAX_IMAGES}")
    return Question(tuple(chat), tuple(media), prompt)


def sampling_of(get: Get) -> dict[str, Any]:
    """How the answer is drawn, for ``sampling_of_request``: what the request says, None for what it does not say.

    Raises:
        UsageError: A value is of the wrong kind.
    """
    seed, schema = _number(get, "seed"), _text(get, "json_schema")
    return {
        **{name: _number(get, name) for name in ("temperature", "top_k", "top_p", "frequency_penalty")},
        "max_new_tokens": _number(get, "max_tokens"),
        "seed": None if seed is None else int(seed) % 2**63,
        "stop": tuple(_decoded(item, "stop") for item in get("stop") or ()) or None,
        "json_schema": None if schema is None else _json(schema, "json_schema"),
        "regex": _text(get, "regex"),
    }


def vector_inputs(get: Get) -> tuple[dict[str, list[Any]], VectorOptions]:
    """Inputs of a model that decodes nothing, as ``Session.embed`` takes them, and what is set of their vectors.

    Raises:
        UsageError: There are neither texts nor pictures, too many, or other numbers of both; or a value is no text.
    """
    written, shown = get("prompt") or (), get("image") or ()
    if not (written or shown) or (written and shown and len(written) != len(shown)):
        got, expected = f"{len(written)} texts, {len(shown)} pictures", "texts, pictures, or as many of both"
        raise UsageError("vectors are of texts, of pictures or of pairs", where="prompt", got=got, expected=expected)
    if (count := len(written or shown)) > MAX_INPUTS:
        where = "prompt" if written else "image"
        raise UsageError("too many inputs", where=where, got=count, expected=f"at most {MAX_INPUTS}")
    texts, pictures = [_decoded(item, "prompt") for item in written], [picture(item) for item in shown]
    pool = _number(get, "pool")
    options = VectorOptions(
        prompt=_text(get, "prompt_name"),
        instruction=_text(get, "instruction"),
        dimensions=_number(get, "dimensions"),
        pool=1 if pool is None else pool,
    )
    if texts and pictures:
        return {"pairs": [*zip(pictures, texts, strict=True)]}, options
    return {"texts": texts} if texts else {"images": pictures}, options


def unheard_parameters(parameters: str, own: Sequence[tuple[str, str, int]] = INPUTS) -> list[str]:
    """Parameters of a request that nobody has heard of.

    Triton hands on as parameters what ``generate`` is sent and no input is called.

    Args:
        parameters: JSON, as ``InferenceRequest.parameters`` gives it.
        own: The model's inputs.

    Raises:
        UsageError: One is an option that Triton's model has not, or as good as a misspelt one.
    """
    inputs = {**dict.fromkeys(OPTIONS, ""), **dict.fromkeys((name for name, _, _ in own), "the inputs")}
    sent = {name: value for name, value in json.loads(parameters or "{}").items() if not name.startswith("triton_")}
    return check_fields(sent, (), "a parameter of a request", "parameters", inputs)


def picture(item: bytes | str) -> bytes:
    """A picture's bytes: as they are, as base64, or as a ``data:`` address.

    Raises:
        ApiError: It is a ``data:`` address of something else.
    """
    return _parts(item, "image")[0]


def clip(get: Get, frames: Callable[[], int] = lambda: DEFAULT_FRAMES) -> VideoClip | None:
    """The clip of ``video``: several pictures are its frames, ``fps`` a second; one item is a film or an animation.

    Raises:
        UsageError: ``fps`` without a clip or out of range, too many frames, or a film that cannot be read.
        ApiError: A ``data:`` address is none.
        MachineError: A film, and PyAV is not installed.
    """
    shown, fps = [part for item in get("video") or () for part in _parts(item, "video")], _number(get, "fps")
    if fps is not None:
        check_fps(fps)
    if not shown:
        if fps is not None:
            raise UsageError("fps is of a clip, and there is none", where="fps", got=fps, fix="give video, or no fps")
        return None
    if len(shown) > MAX_FRAMES:
        raise UsageError("too many frames", where="video", got=len(shown), expected=f"at most {MAX_FRAMES}")
    if len(shown) > 1:
        return VideoClip(tuple(shown), DEFAULT_FPS if fps is None else fps)
    sampled = open_video(shown[0], frames(), fps)
    return VideoClip(sampled.frames, sampled.fps, sampled.times, sampled.of)


def _parts(item: bytes | str, kind: Literal["image", "video"]) -> list[bytes]:
    """Bytes of one item, of a ``data:`` address of films with commas several."""
    data = item.encode() if isinstance(item, str) else bytes(item)
    if data[:5].lower() == b"data:":
        return data_bytes(data.decode("latin-1"), kind)
    with suppress(binascii.Error):
        return [base64.b64decode(data, validate=True) if data.isascii() else data]
    return [data]


def _chat(
    text: str, pictures: list[bytes], clips: list[VideoClip]
) -> tuple[list[dict[str, Any]], list[bytes | VideoClip]]:
    """Messages with plain parts, and what their parts stand for: pictures and clips given, or their own ``data:``."""
    messages = _json(text, "messages")
    if not isinstance(messages, list) or not messages:
        raise UsageError("messages are a JSON list", where="messages", got=text[:80])
    check_messages(messages)
    chat: list[dict[str, Any]] = []
    media: list[bytes | VideoClip] = []
    waiting, unseen = iter(pictures), iter(clips)
    for index, message in enumerate(messages):
        where = f"messages[{index}]"
        role = message.get("role") if isinstance(message, dict) else None
        content = message.get("content") if isinstance(message, dict) else None
        if role not in _ROLES or not isinstance(content, str | list):
            raise UsageError("a message has a role and content", where=where, expected=", ".join(_ROLES))
        parts: list[dict[str, Any]] = []
        for number, part in enumerate([{"type": "text", "text": content}] if isinstance(content, str) else content):
            kind = part.get("type") if isinstance(part, dict) else None
            if kind == "text" and isinstance(part.get("text"), str):
                parts.append({"type": "text", "text": part["text"]})
                continue
            address = part.get("image_url") if kind == "image_url" else None
            address = address.get("url") if isinstance(address, dict) else address
            if kind == "image" and set(part) == {"type"}:
                following = next(waiting, None)
                if following is None:
                    raise UsageError("there are fewer pictures than image parts", where="image", got=len(pictures))
                media.append(following)
            elif kind == "video" and set(part) == {"type"}:
                of_video = next(unseen, None)
                if of_video is None:
                    raise UsageError("there are fewer clips than video parts", where="video", got=len(clips))
                media.append(of_video)
                parts.append({"type": "video"})
                continue
            elif isinstance(address, str):
                media.append(data_bytes(address, where)[0])
            else:
                expected = 'text, {"type": "image"} for the next of image, {"type": "video"} for the clip of video,'
                expected += " or image_url with a data: address"
                raise UsageError("this part is not understood", where=f"{where}.content[{number}]", expected=expected)
            parts.append({"type": "image"})
        chat.append({"role": role, "content": parts})
    if next(waiting, None) is not None:
        raise UsageError("there are more pictures than image parts", where="image", got=len(pictures))
    if next(unseen, None) is not None:
        raise UsageError("no video part stands for the clip", where="video", fix='put {"type": "video"} into a message')
    return chat, media


def _json(text: str, where: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise UsageError("this is not JSON", where=where, got=str(error)[:200]) from error


def _text(get: Get, name: str) -> str | None:
    tensor = get(name)
    return None if tensor is None or not len(tensor) else _decoded(tensor[0], name)


def _decoded(item: bytes | str, name: str) -> str:
    try:
        return item if isinstance(item, str) else bytes(item).decode()
    except UnicodeDecodeError as error:
        raise UsageError("this is not text", where=name, got=str(error)) from error


def _number(get: Get, name: str) -> Any:
    tensor = get(name)
    return None if tensor is None or not len(tensor) else tensor[0].item()
