"""Which of a checkpoint's files holds its chat template: one choice for bundles and for parity, as transformers'."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any, NamedTuple

from luvc_export.core.files.text import decoded
from luvc_export.errors import UsageError

CONFIG = "tokenizer_config.json"
JINJA = "chat_template.jinja"
#: In transformers' order (``ProcessorMixin.get_processor_dict``): what a processor has comes before its tokenizer's; of
#: a processor's files its settings, the older form, the newer one.
FILES = ("processor_config.json", "chat_template.json", JINJA, CONFIG)


class TemplateSource(NamedTuple):
    """A template's text and the file that holds it."""

    text: str
    file: str


def template_source(read: Callable[[str], bytes | None], kind: type[UsageError], folder: str) -> TemplateSource | None:
    """The chat template of a bundle or a checkpoint; None if it has none.

    Args:
        read: The bytes of one of ``FILES``, None where it is not there.
        kind: What is raised.
        folder: For errors.

    Raises:
        UsageError: As ``kind``: a file that should hold one is no JSON or no UTF-8, or holds something else.
    """
    for name in FILES:
        data = read(name)
        if data is None:
            continue
        if name == JINJA:
            try:
                return TemplateSource(data.decode("utf-8"), name)
            except UnicodeDecodeError as error:
                raise kind("the chat template is not UTF-8", where=f"{folder}/{name}", got=str(error)) from error
        stated = json_object(data, kind, f"{folder}/{name}").get("chat_template")
        text = stated
        if isinstance(stated, list):  # several by name: the default one
            named = {item.get("name"): item.get("template") for item in stated if isinstance(item, dict)}
            text = named.get("default")
            if named and "default" not in named:
                raise kind(
                    "none of the chat templates is the default one",
                    where=f"{folder}/{name}",
                    got=", ".join(map(repr, named))[:200],
                    expected='one with the name "default"',
                    fix="call the one that chats shall take default, or write it to chat_template.jinja alone",
                )
        if isinstance(text, str):
            return TemplateSource(text, name)
        if stated is not None:
            raise kind("the chat template is not text", where=f"{folder}/{name}")
    return None


def json_object(data: bytes, kind: type[UsageError], where: str) -> dict[str, Any]:
    """A file's JSON object.

    Raises:
        UsageError: As ``kind``: it is none.
    """
    try:
        value = json.loads(decoded(data))
    except (ValueError, RecursionError) as error:
        raise kind("this file is not JSON", where=where, got=str(error)) from error
    if not isinstance(value, dict):
        raise kind("expected a JSON object", where=where, got=type(value).__name__)
    return value
