"""A chat template rendered: what a helper process does (``confined.child``), so without anything that loads slowly."""

from __future__ import annotations

from collections import OrderedDict
from typing import Any

import jinja2

from luvc_export.runtime.prompt.sandbox import Sandbox

#: Templates kept compiled.
_KEPT = 8
_compiled: OrderedDict[str, tuple[Sandbox, jinja2.Template]] = OrderedDict()


def task(request: dict[str, Any], data: bytes) -> tuple[dict[str, Any], bytes]:
    """Render ``source`` with ``values``: the text as UTF-8 (lone halves of characters kept), or what went wrong.

    Without ``values`` it is parsed alone.
    """
    reply = render(request["source"], request.get("values"))
    return (reply, b"") if "what" in reply else ({}, reply["text"].encode("utf-8", "surrogatepass"))


def render(source: str, values: dict[str, Any] | None) -> dict[str, str]:
    """``text``; or ``what`` went wrong and what was ``got``."""
    try:
        sandbox, template = _compile(source)
        if values is None:
            return {"text": ""}
        sandbox.reset()
        pieces, size = [], 0
        for piece in template.generate(values):
            pieces.append(piece)
            size += len(piece)
            if size > sandbox.size_limit:
                return _wrong("the chat template does not end", f"more than {sandbox.size_limit:,} characters")
        return {"text": "".join(pieces)}
    except jinja2.exceptions.SecurityError as error:
        return _wrong("the chat template does something it must not", error)
    except jinja2.TemplateSyntaxError as error:
        return _wrong("the chat template cannot be parsed", f"line {error.lineno}: {error.message}")
    except jinja2.TemplateError as error:
        return _wrong("the chat template refuses these messages", error)
    except RecursionError:
        return _wrong("the chat template does not end", "RecursionError")
    except MemoryError:
        raise
    except Exception as error:  # a template is a program: it can raise whatever Python can
        return _wrong("the chat template fails", f"{type(error).__name__}: {error}")


def _compile(source: str) -> tuple[Sandbox, jinja2.Template]:
    if source not in _compiled:
        sandbox = Sandbox()
        _compiled[source] = sandbox, sandbox.compile_template(source)
        while len(_compiled) > _KEPT:
            _compiled.popitem(last=False)
    return _compiled[source]


def _wrong(what: str, got: object) -> dict[str, str]:
    return {"what": what, "got": str(got)[:1000]}
