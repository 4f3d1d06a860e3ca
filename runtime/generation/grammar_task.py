"""What a helper process does for ``grammar_trials``: a grammar written and compiled once, within limits."""

from __future__ import annotations

import contextlib
import json
import signal
import threading
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

try:
    import resource
except ImportError:  # Windows: the parent's clock is the only limit
    resource = None  # type: ignore[assignment]

from luvc_export.errors import UsageError
from luvc_export.runtime.generation.grammar_text import grammar_of, grammar_of_tools, matcher, tokens_of

#: Of the thread in which it is compiled: less than any thread has that compiles it afterwards, as the library recurses.
_STACK = 2**20
#: Tokenizers that stay read: 150,000 tokens take a second and 140 MB.
_MOST_TOKENIZERS = 2
_tokenizers: OrderedDict[str, Any] = OrderedDict()


def task(request: dict[str, Any], data: bytes) -> tuple[dict[str, Any], bytes]:
    """The grammar, or what is wrong with it; ``unknown`` where the tokenizer's text must come along as ``data``."""
    tokens = _tokenizers.get(request["tokenizer"])
    if tokens is None and not data:
        return {"unknown": True}, b""
    if tokens is None:
        tokens = tokens_of(data.decode(), request["vocab"], request["ends"])
        _tokenizers[request["tokenizer"]] = tokens
        while len(_tokenizers) > _MOST_TOKENIZERS:
            _tokenizers.popitem(last=False)
    try:
        with _limited(request["seconds"], request["memory"]):
            return _compiled(tokens, request["where"], json.loads(request["asked"])), b""
    except UsageError as error:
        return error.to_json(), b""


def _compiled(tokens: Any, where: str, asked: Any) -> dict[str, Any]:
    reply: dict[str, Any] = {}

    def compile_once() -> None:
        try:
            matcher(tokens, reply["grammar"], where)
        except UsageError as error:
            reply.clear()
            reply.update(error.to_json())

    if where == "tools":
        reply["grammar"], reply["unheld"] = grammar_of_tools(asked)
    else:
        reply["grammar"] = grammar_of(where, asked)
    before = threading.stack_size(_STACK)
    thread = threading.Thread(target=compile_once)
    thread.start()
    threading.stack_size(before)
    thread.join()
    return reply


@contextmanager
def _limited(seconds: float, memory: int) -> Iterator[None]:
    """Less than this helper may take: for one grammar, whatever its tokenizer took (``confined.child``)."""
    if hasattr(signal, "setitimer"):
        signal.setitimer(signal.ITIMER_PROF, seconds)
    before = None
    with contextlib.suppress(OSError, ValueError, AttributeError):  # not Linux
        held = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0]) * resource.getpagesize()
        before = resource.getrlimit(resource.RLIMIT_AS)
        resource.setrlimit(resource.RLIMIT_AS, (min(before[0], held + memory), before[1]))
    try:
        yield
    finally:
        if before is not None:
            resource.setrlimit(resource.RLIMIT_AS, before)
