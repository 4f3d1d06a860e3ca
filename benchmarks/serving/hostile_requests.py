"""Requests of hostile clients, each a whole HTTP request, built before anything is timed."""

from __future__ import annotations

import base64
import io
import json
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from fuzzed import body as fuzzed_body
from PIL import Image

#: Bytes of the largest body that is taken.
LARGE = 31 * 2**20
_TEXT = [{"role": "user", "content": "a"}]


@dataclass(frozen=True)
class Attack:
    """What one kind of client sends.

    Args:
        requests: Sent in turns.
        connections: At once.
        reads: Whether it reads answers; otherwise it holds the connection.
        pause: Seconds between 64 KiB of a body; 0 sends at once.
    """

    requests: list[bytes]
    connections: int = 4
    reads: bool = True
    pause: float = 0.0


def request(body: bytes, path: str = "/v1/chat/completions") -> bytes:
    """A POST of JSON."""
    head = f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: {len(body)}"
    return f"{head}\r\nConnection: close\r\n\r\n".encode() + body


def _chat(model: str, **more: Any) -> bytes:
    return request(json.dumps({"model": model, "messages": _TEXT, "max_tokens": 200, **more}).encode())


def _shown(model: str, data: bytes, kind: str, part: str) -> bytes:
    address = f"data:{kind};base64," + base64.b64encode(data).decode()
    content = [{"type": part, part: {"url": address}}, {"type": "text", "text": "What is it?"}]
    return _chat(model, messages=[{"role": "user", "content": content}], max_tokens=4)


def _animations(model: str, adapters: Path) -> Attack:
    """WebPs of half a gigapixel of frames in kilobytes."""
    requests = []
    for side, count in ((1400, 250), (3000, 50)):
        frames = [Image.new("RGB", (side, side), (number % 256, 0, 0)) for number in range(count)]
        buffer = io.BytesIO()
        frames[0].save(buffer, "WEBP", save_all=True, append_images=frames[1:], lossless=True, method=0)
        requests.append(_shown(model, buffer.getvalue(), "image/webp", "video_url"))
    return Attack(requests, 8)


def _films(model: str, adapters: Path) -> Attack:
    """A film whose every frame must be decoded for its last."""
    import av

    with TemporaryDirectory() as folder:
        path = Path(folder) / "film.mp4"
        with av.open(str(path), "w") as out:
            stream = out.add_stream("mpeg4", rate=30)
            stream.width, stream.height, stream.pix_fmt, stream.gop_size = 1920, 1080, "yuv420p", 600
            noise = np.random.default_rng(0).integers(0, 256, (1080, 1920, 3), np.uint8)
            for number in range(400):
                frame = av.VideoFrame.from_ndarray(np.roll(noise, number, 1) if number % 40 == 0 else noise, "rgb24")
                for packet in stream.encode(frame):
                    out.mux(packet)
            for packet in stream.encode():
                out.mux(packet)
        film = _shown(model, path.read_bytes(), "video/mp4", "video_url")
        assert len(film) < LARGE, "the server would not read it"
        return Attack([film], 8)


def _pictures(model: str, adapters: Path) -> Attack:
    """Much in few bytes: black JPEG, PNG and WebP as large as is taken, sixteen in a request."""
    requests = []
    for form, side in (("JPEG", 11000), ("PNG", 5700), ("WEBP", 5700)):
        buffer = io.BytesIO()
        Image.new("RGB", (side, side)).save(buffer, form)
        requests.append(_shown(model, buffer.getvalue(), f"image/{form.lower()}", "image_url"))
    small = io.BytesIO()
    Image.new("RGB", (2000, 2000)).save(small, "WEBP")
    address = "data:image/webp;base64," + base64.b64encode(small.getvalue()).decode()
    content = [{"type": "image_url", "image_url": {"url": address}}] * 16
    return Attack([*requests, _chat(model, messages=[{"role": "user", "content": content}])], 8)


def _bodies(model: str, adapters: Path) -> Attack:
    """One text of 31 MiB, and a list of 400,000 objects."""
    text = json.dumps({"model": model, "messages": [{"role": "user", "content": "a" * LARGE}]}).encode()
    values = b'{"model":"' + model.encode() + b'","messages":[' + b",".join([b"{}"] * 400_000) + b"]}"
    return Attack([request(text), request(values)], 60)


def _slow_bodies(model: str, adapters: Path) -> Attack:
    """Of 31 MiB, a part every now and then."""
    return Attack([request(b'"' + b"a" * LARGE + b'"')], 24, pause=0.2)


def _unread(model: str, adapters: Path) -> Attack:
    """Long streams of eight answers and of one that nobody reads."""
    requests = [
        _chat(model, stream=True, n=n, ignore_eos=True, temperature=1, logprobs=True, top_logprobs=20) for n in (1, 8)
    ]
    return Attack([requests[0], requests[0], requests[0], requests[1]], 58, reads=False)


def _adapters(model: str, adapters: Path) -> Attack:
    """Loaded and unloaded in a loop."""
    requests = []
    for folder in sorted(adapters.iterdir()):
        body = {"lora_name": folder.name, "lora_path": str(folder)}
        requests.append(request(json.dumps(body).encode(), "/v1/load_lora_adapter"))
        requests.append(request(json.dumps({"lora_name": folder.name}).encode(), "/v1/unload_lora_adapter"))
    return Attack(requests, 8)


def _grammars(model: str, adapters: Path) -> Attack:
    """Schemas and patterns that explode, or whose masks take long."""
    branches = [{"type": "object", "properties": {"k": {"const": n}}, "required": ["k"]} for n in range(1200)]
    chain = "start: a0\n" + "".join(f"a{n}: a{n + 1} a{n + 1}\n" for n in range(3000)) + 'a3000: "x"'
    some = [{"anyOf": [{"properties": {f"k{n}_{m}": {"type": "integer"}}} for m in range(4)]} for n in range(6)]
    nested: dict[str, Any] = {"type": "integer"}
    for _ in range(40):
        nested = {"type": "array", "minItems": 900, "maxItems": 1000, "items": nested}
    asked: list[dict[str, Any]] = [
        *({"guided_json": {"type": "integer", "multipleOf": 999_983 - 2 * n}} for n in range(20)),
        {"guided_json": {"oneOf": branches}},
        {"guided_json": {"allOf": some}},
        {"guided_json": nested},
        {"guided_json": {"properties": {f"p{n}": {} for n in range(100_000)}}},
        {"guided_grammar": chain},
        {"guided_grammar": "start: " + " ".join(["a?"] * 12_000) + '\na: "x"'},
        *({"guided_grammar": "start: " + " ".join(["a?"] * n) + '\na: "x" | "y"'} for n in (600, 900, 1200)),
        {"guided_grammar": "root ::= " + '("a" | ' * 3000 + '"b"' + ")" * 3000},
        {"guided_regex": "(?<" * 33_000},
        {"guided_regex": "\\p{" * 33_000},
        {"guided_regex": "(a{1000}){1000}"},
        {"guided_regex": "((a|b|c|d)?(e|f|g)?.{0,20}){40}", "temperature": 2, "n": 8},
    ]
    return Attack([_chat(model, **one) for one in asked], 8)


def _tools(model: str, adapters: Path) -> Attack:
    """Too many tools, schemas that nest, refer to themselves or explode, and conversations of many calls."""

    def tools(count: int, schema: dict[str, Any]) -> list[dict[str, Any]]:
        of = {"type": "function"}
        return [of | {"function": {"name": f"f{number}", "parameters": schema}} for number in range(count)]

    nested: dict[str, Any] = {"type": "string"}
    for _ in range(400):
        nested = {"type": "object", "properties": {"a": nested}, "required": ["a"]}
    one: dict[str, Any] = {"type": "array", "items": {"$ref": "#/$defs/a"}}
    itself = {"$defs": {"a": {"anyOf": [{"$ref": "#/$defs/a"}, one]}}, "properties": {"a": one}}
    doubled = {"$defs": {f"a{n}": {"properties": {k: {"$ref": f"#/$defs/a{n + 1}"} for k in "xy"}} for n in range(30)}}
    doubled |= {"properties": {"a": {"$ref": "#/$defs/a0"}}}
    many = {"properties": {f"p{number}": {"enum": [f"{number}{n}" for n in range(40)]} for number in range(40)}}
    marks = {"type": "object", "description": "</tools><|im_end|>" * 3000}
    call = {"type": "function", "id": "c", "function": {"name": "f0", "arguments": '{"a":' * 300}}
    calls = [{"role": "assistant", "content": None, "tool_calls": [{**call, "id": str(n)} for n in range(128)]}]
    result = {"role": "tool", "tool_call_id": "c", "content": "<tool_call>" * 5000}
    small = {"type": "object", "properties": {"a": {"type": "integer"}}}
    asked: list[dict[str, Any]] = [
        {"tools": tools(10_000, small)},
        *({"tools": tools(128, schema), "tool_choice": "required"} for schema in (small, itself, doubled)),
        *({"tools": tools(1, schema), "tool_choice": "required"} for schema in (nested, many, marks)),
        {"tools": tools(128, small), "tool_choice": "required", "temperature": 2, "n": 8},
        {"tools": tools(1, small), "messages": [*_TEXT, *calls * 50]},
        {"tools": tools(1, small), "messages": [*_TEXT, {**calls[0], "tool_calls": [call]}, result]},
    ]
    return Attack([_chat(model, **each) for each in asked], 8)


def _json(model: str, adapters: Path) -> Attack:
    """Bodies that are almost right."""
    return Attack([request(fuzzed_body(number, model)) for number in range(2000)], 8)


KINDS: dict[str, Callable[[str, Path], Attack]] = {
    "animations": _animations,
    "films": _films,
    "pictures": _pictures,
    "bodies": _bodies,
    "slow bodies": _slow_bodies,
    "unread streams": _unread,
    "adapters": _adapters,
    "grammars": _grammars,
    "tools": _tools,
    "json": _json,
}


def shuffled(requests: list[bytes], seed: int) -> Iterator[bytes]:
    """Requests without end."""
    chance = random.Random(seed)
    while True:
        yield from chance.sample(requests, len(requests))
