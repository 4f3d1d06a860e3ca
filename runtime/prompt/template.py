"""Chat messages -> the prompt's text, through the checkpoint's own chat template."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jinja2

from luvc_export.bundle.folder import Bundle
from luvc_export.errors import BundleError, UsageError
from luvc_export.runtime.prompt.sandbox import Sandbox

Message = Mapping[str, Any]

_CONFIG = "tokenizer_config.json"
_JINJA = "chat_template.jinja"
_JSON = "chat_template.json"


@dataclass(frozen=True)
class ChatTemplate:
    """A template's ``source``, the file it is from (for errors) and the special tokens it may name."""

    source: str
    where: str
    special: Mapping[str, str]

    def render(self, messages: Sequence[Message]) -> str:
        """Render ``messages`` with a generation prompt, as ``apply_chat_template`` does.

        Raises:
            UsageError: The template refuses the messages, is broken, leaves its sandbox or does not end.
        """
        sandbox = Sandbox()
        pieces, size = [], 0
        try:
            template = sandbox.compile_template(self.source)
            values = {**self.special, "messages": plain_data(list(messages)), "tools": None, "documents": None}
            for piece in template.generate({**values, "add_generation_prompt": True}):
                pieces.append(piece)
                size += len(piece)
                if size > sandbox.size_limit:
                    raise self._error("the chat template does not end", f"more than {sandbox.size_limit:,} characters")
        except jinja2.exceptions.SecurityError as error:
            raise self._error("the chat template does something it must not", str(error)) from error
        except jinja2.TemplateSyntaxError as error:
            raise self._error("the chat template cannot be parsed", f"line {error.lineno}: {error.message}") from error
        except jinja2.TemplateError as error:
            raise self._error("the chat template refuses these messages", str(error)) from error
        except UsageError:
            raise
        except (RecursionError, MemoryError) as error:
            raise self._error("the chat template does not end", type(error).__name__) from error
        except Exception as error:  # a template is a program: it can raise whatever Python can
            raise self._error("the chat template fails", f"{type(error).__name__}: {error}") from error
        return "".join(pieces)

    def _error(self, what: str, got: str) -> UsageError:
        fix = "check the messages (roles in turn, content a string or a list of parts), or the checkpoint's template"
        return UsageError(what, where=self.where, got=got, fix=fix)


def load_template(bundle: Bundle) -> ChatTemplate | None:
    """The bundle's template, None if it has none: ``chat_template.jinja``, ``.json``, or in the tokenizer's config.

    Raises:
        BundleError: A file that should hold one is not JSON, or holds something else.
    """
    config = _json(bundle, _CONFIG)
    special = _special_tokens(config)
    if _JINJA in bundle.manifest.files:
        path = bundle.path(_JINJA)
        try:
            return ChatTemplate(bundle.read(_JINJA).decode("utf-8"), str(path), special)
        except UnicodeDecodeError as error:
            raise BundleError("the chat template is not UTF-8", where=str(path), got=str(error)) from error
    for name, data in ((_JSON, _json(bundle, _JSON)), (_CONFIG, config)):
        source = data.get("chat_template")
        if isinstance(source, list):  # several by name: the default one
            named = {item.get("name"): item.get("template") for item in source if isinstance(item, dict)}
            source = named.get("default")
        if isinstance(source, str):
            return ChatTemplate(source, str(bundle.folder / name), special)
        if source is not None or data.get("chat_template") is not None:
            raise BundleError("the chat template is not text", where=str(bundle.folder / name))
    return None


def plain_data(value: Any) -> Any:
    """Rebuild ``value`` of JSON types only; anything else (a picture) becomes its type's name, which does nothing."""
    if isinstance(value, Mapping):
        return {str(key): plain_data(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain_data(item) for item in value]
    for kind in (bool, str, int, float):
        if isinstance(value, kind):
            return kind(value)
    return None if value is None else f"<{type(value).__name__}>"


def _special_tokens(config: Mapping[str, Any]) -> dict[str, str]:
    """``bos_token`` and the like: strings, or objects with the string as ``content``."""
    tokens = {}
    for name, value in config.items():
        content = value.get("content") if isinstance(value, dict) else value
        if name.endswith("_token") and isinstance(content, str):
            tokens[name] = content
    return tokens


def _json(bundle: Bundle, name: str) -> dict[str, Any]:
    if name not in bundle.manifest.files:
        return {}
    path = bundle.path(name)
    try:
        data = json.loads(bundle.read(name).decode("utf-8"))
    except (ValueError, RecursionError) as error:
        raise BundleError("this file is not JSON", where=str(path), got=str(error)) from error
    if not isinstance(data, dict):
        raise BundleError("expected a JSON object", where=str(path), got=type(data).__name__)
    return data
