"""Chat messages -> the prompt's text, through the checkpoint's own chat template."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from luvc_export.bundle.folder import Bundle
from luvc_export.core.files.template_source import CONFIG, json_object, template_source
from luvc_export.core.files.text import read_text
from luvc_export.errors import BundleError, UsageError
from luvc_export.runtime.confined.helpers import Helpers, TooMuchError

Message = Mapping[str, Any]

#: Bytes and seconds of computing for one rendering; the families' templates take a few milliseconds and megabytes.
_MEMORY, _SECONDS = 256 * 2**20, 2
#: Bytes of a template's own file.
_MOST_BYTES = 2**20
#: As many at once as ``serve`` prepares requests, so that text does not wait for those with pictures.
_helpers = Helpers("luvc_export.runtime.prompt.rendering", _MEMORY, _SECONDS, most=7)


@dataclass(frozen=True)
class ChatTemplate:
    """A template's ``source``, the file it is from (for errors) and the special tokens it may name."""

    source: str
    where: str
    special: Mapping[str, str]

    def render(
        self,
        messages: Sequence[Message],
        values: Mapping[str, Any] | None = None,
        continues: bool = False,
        tools: Sequence[Mapping[str, Any]] = (),
    ) -> str:
        """Render ``messages``, as ``apply_chat_template`` does, in a helper process.

        The helper is kept for the next call; threads may render at the same time.

        Args:
            messages: The chat.
            values: What the template is given beside it; ``add_generation_prompt`` is true where they do not say.
            continues: The text ends where that of the last message does (transformers' ``continue_final_message``).
            tools: What the model may call, in OpenAI's form.

        Raises:
            UsageError: ``values`` name what is not the caller's to say, or the last message has no text in what the
                template wrote; the template refuses the messages, is broken, leaves its sandbox, does not end, or takes
                more than 2 s of computing or 256 MiB.
            MachineError: No helper can be started here.
        """
        own = {**self.special, "messages": plain_data(list(messages)), "documents": None}
        own["tools"] = plain_data(list(tools)) or None
        if taken := sorted(own.keys() & (values or {}).keys()):
            raise self._error("the chat template's own values cannot be given", ", ".join(taken))
        beside = {"add_generation_prompt": not continues, **plain_data(values or {})}
        try:
            reply, text = _helpers.call({"source": self.source, "values": {**own, **beside}})
        except TooMuchError as error:
            raise self._error("the chat template takes too much", str(error)) from error
        if "what" in reply:
            raise self._error(reply["what"], reply["got"])
        rendered = text.decode("utf-8", "surrogatepass")
        return self._cut_behind(rendered, last_text(messages)) if continues else rendered

    def _cut_behind(self, rendered: str, last: str) -> str:
        """``rendered`` up to the end of the last message's text, which templates may write without its blanks."""
        place = rendered.rfind(last.strip())
        if not last.strip() or place < 0:
            raise self._error("the answer cannot go on with the last message", f"its text: {last[:80]!r}")
        blanks = last.lstrip()
        return rendered[: place + len(blanks if rendered.startswith(blanks, place) else last.strip())]

    def problem(self) -> str | None:
        """Why it cannot be parsed, so that it refuses every chat; None where it can.

        Raises:
            MachineError: No helper can be started here.
        """
        try:
            reply, _ = _helpers.call({"source": self.source})
        except TooMuchError as error:
            return str(error)
        return f"{reply['what']}: {reply['got']}" if "what" in reply else None

    def prepare(self) -> None:
        """Start the helper process, so that it is there when ``render`` is called."""
        _helpers.start()

    def _error(self, what: str, got: str) -> UsageError:
        fix = "check the messages (roles in turn, content a string or a list of parts), or the checkpoint's template"
        return UsageError(what, where=self.where, got=got, fix=fix)


def load_template(bundle: Bundle, file: Path | None = None) -> ChatTemplate | None:
    """The bundle's template, None if it has none: see ``template_source``; or the one in ``file``.

    Raises:
        BundleError: A file that should hold one is not JSON, or holds something else.
        UsageError: ``file`` cannot be read.
    """

    def read(name: str) -> bytes | None:
        return bundle.read(name) if name in bundle.manifest.files else None

    config = read(CONFIG)
    where = str(bundle.folder)
    special = {} if config is None else _special_tokens(json_object(config, BundleError, f"{where}/{CONFIG}"))
    if file is not None:
        text = read_text(file, UsageError, "the chat template of --chat-template", _MOST_BYTES)
        return ChatTemplate(text, str(file), special)
    source = template_source(read, BundleError, where)
    return None if source is None else ChatTemplate(source.text, f"{where}/{source.file}", special)


def last_text(messages: Sequence[Message]) -> str:
    """The text that the last message ends with; none where it ends with something else."""
    content = messages[-1].get("content") if messages else None
    if isinstance(content, list | tuple) and content and isinstance(content[-1], Mapping):
        content = content[-1].get("text")
    return content if isinstance(content, str) else ""


def described(bundle: Bundle) -> str:
    """Which template a bundle has, for people: the file, or why chats are refused.

    Raises what ``ChatTemplate.problem`` raises.
    """
    try:
        template = load_template(bundle)
    except BundleError as error:
        return f"unreadable, so the bundle cannot be asked: {error.what}"
    if template is None:
        return "none: prompts are taken as they are, one question at a time"
    name, problem = template.where.rpartition("/")[2], template.problem()
    return name if problem is None else f"{name}, every chat is refused: {problem}"


def template_values(values: Mapping[str, Any] | None) -> dict[str, Any]:
    """Variables of a chat template that a caller gives by name (``chat_template_kwargs``), as ``Question.values``.

    Raises:
        UsageError: They are no mapping with names as keys.
    """
    if values is None:
        return {}
    if not isinstance(values, Mapping) or not all(isinstance(name, str) and name.isidentifier() for name in values):
        raise UsageError(
            "variables of the chat template are given by name",
            where="chat_template_kwargs",
            got=repr(values)[:80],
            expected='a mapping such as {"enable_thinking": False}',
        )
    return dict(values)


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
