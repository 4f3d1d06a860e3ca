"""Bodies that are almost requests: mutated fields, types, numbers, bytes; by seed, so that each can be sent again."""

from __future__ import annotations

import copy
import json
import random
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from calling import Client

_PIXEL = (
    "data:image/png;base64,iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAIAAACQd1PeAAAADElEQVR4nGP4z8AAAAMBAQDJ/pLvAAAAAElFTkSuQmCC"
)
_ODD: tuple[Any, ...] = (
    None, True, False, 0, -1, 1, 2**63, -(2**70), 1e308, 0.5, "", "x", "\u0000", "\ud83d\ude00" * 50, "<|im_end|>",
    "<|image_pad|>", [], {}, [[]], [None], {"": None}, {"type": "text"}, {"type": "image_url", "image_url": _PIXEL},
    "data:image/png;base64,", "file:///etc/passwd", "http://169.254.169.254/latest/meta-data", "a" * 5000,
)  # fmt: skip
_NAMES = (
    "model", "messages", "stream", "stream_options", "max_tokens", "max_completion_tokens", "temperature", "top_p",
    "top_k", "min_p", "seed", "stop", "n", "logprobs", "top_logprobs", "presence_penalty", "frequency_penalty",
    "repetition_penalty", "logit_bias", "response_format", "luvc", "tools", "user", "metadata",
)  # fmt: skip


def body(seed: int, model: str) -> bytes:
    """The body of ``seed``."""
    chance = random.Random(seed)
    picture = {"type": "image_url", "image_url": {"url": _PIXEL}}
    content: Any = [picture, {"type": "text", "text": "Hello"}] if chance.random() < 0.5 else "Hello"
    request: dict[str, Any] = {
        "model": model,
        "messages": [{"role": "user", "content": content}],
        "max_tokens": chance.randint(1, 4),
    }
    for _ in range(chance.randint(0, 4)):
        _change(request, chance)
    data = json.dumps(request).encode()
    if chance.random() < 0.2:
        data = _damaged(data, chance)
    return data


def _change(data: Any, chance: random.Random) -> None:
    """Change one thing somewhere inside."""
    if isinstance(data, dict) and data and chance.random() < 0.6:
        name = chance.choice(list(data))
        if isinstance(data[name], dict | list) and chance.random() < 0.6:
            _change(data[name], chance)
        else:
            data[name] = copy.deepcopy(chance.choice(_ODD))
    elif isinstance(data, dict):
        data[chance.choice(_NAMES)] = copy.deepcopy(chance.choice(_ODD))
    elif data and chance.random() < 0.7:
        _change(data[chance.randrange(len(data))], chance) if isinstance(data[0], dict | list) else data.append(1)
    else:
        data.insert(0, copy.deepcopy(chance.choice(_ODD)))


def _damaged(data: bytes, chance: random.Random) -> bytes:
    at = chance.randrange(len(data))
    way = chance.randrange(4)
    if way == 0:
        return data[:at]
    if way == 1:
        return data[:at] + bytes([chance.randrange(256)]) + data[at + 1 :]
    if way == 2:
        return data[:at] + data[at : at + 20] * chance.randint(2, 50) + data[at:]
    return chance.randbytes(len(data))


def send(client: Client, count: int, seed: int, model: str) -> Counter[int]:
    """Send ``count`` bodies four at a time: how often each status came."""

    def status(number: int) -> int:
        return client.call("POST", "/v1/chat/completions", body(seed * 10**6 + number, model)).status

    with ThreadPoolExecutor(4) as pool:
        return Counter(pool.map(status, range(count)))
