"""Chat messages -> the prompt's text, through the checkpoint's own chat template."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from luvc_export.bundle.folder import Bundle
from luvc_export.errors import BundleError, UsageError
from luvc_export.runtime.confined.helpers import Helpers, TooMuchError

Message = Mapping[str, Any]

_CONFIG = "tokenizer_config.json"
_JINJA = "chat_template.jinja"
_JSON = "chat_template.json"
#: Bytes and seconds of computing for one rendering; the families' templates take a few milliseconds and megabytes.
_MEMORY, _SECONDS = 256 * 2**20, 2
_helpers = Helpers("luvc_export.runtime.prompt.rendering", _MEMORY, _SECONDS)


@dataclass(frozen=True)
class ChatTemplate:
    """A template's ``source``, the file it is from (for errors) and the special tokens it may name."""

    source: str
    where: str
    special: Mapping[str, str]

    def render(self, messages: Sequence[Message]) -> str:
        """Render ``messages`` with a generation prompt, as ``apply_chat_template`` does, in a helper process.

        The helper is kept for the next call; threads may render at the same time.

        Raises:
            UsageError: The template refuses the messages, is broken, leaves its sandbox, does not end, or takes more
                than 2 s of computing or 256 MiB.
            MachineError: No helper can be started here.
        """
        values = {**self.special, "messages": plain_data(list(messages)), "tools": None, "documents": None}
        try:
            said = {"source": self.source, "values": {**values, "add_generation_prompt": True}}
            reply, text = _helpers.call(said)
        except TooMuchError as error:
            raise self._error("the chat template takes too much", str(error)) from error
        if "what" in reply:
            raise self._error(reply["what"], reply["got"])
        return text.decode("utf-8", "surrogatepass")

    def prepare(self) -> None:
        """Start the helper process, so that it is there when ``render`` is called."""
        _helpers.start()

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
