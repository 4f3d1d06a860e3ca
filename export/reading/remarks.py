"""What a user should know of a checkpoint before asking its bundle: weights, tokenizer and chat template."""

from __future__ import annotations

from pathlib import Path

from luvc_export.core.files.safe_files import open_regular
from luvc_export.core.files.template_source import TemplateSource, template_source
from luvc_export.errors import CheckpointError
from luvc_export.export.checkpoint import Checkpoint
from luvc_export.export.reading.tokenizer_files import tokenizer_files

_PLAIN = "prompts are taken as they are, one question at a time, where transformers' apply_chat_template raises"


def remarks(checkpoint: Checkpoint) -> tuple[str, ...]:
    """Sentences for people; nothing where all is as usual.

    Raises what ``tokenizer_files`` and ``chat_template`` raise.
    """
    notes = (*checkpoint.notes, *tokenizer_files(checkpoint.folder).notes)
    template = chat_template(checkpoint.folder)
    if template is None:
        return (*notes, f"this checkpoint has no chat template: {_PLAIN}")
    problem = _problem(template.text)
    if problem is None:
        return notes
    return (*notes, f"the chat template in {template.file} cannot be parsed, so every chat is refused: {problem}")


def chat_template(folder: Path) -> TemplateSource | None:
    """The template of a checkpoint's folder, None where it has none.

    Raises:
        CheckpointError: A file that should hold one is no JSON or no UTF-8, or holds several without a default.
    """

    def read(name: str) -> bytes | None:
        if not (folder / name).is_file():
            return None
        with open_regular(folder / name, links=True) as file:
            return file.read()

    return template_source(read, CheckpointError, str(folder))


def _problem(text: str) -> str | None:
    """Why transformers' own compiler of templates refuses one."""
    from jinja2 import TemplateError
    from transformers.utils.chat_template_utils import _compile_jinja_template

    try:
        _compile_jinja_template(text)
    except TemplateError as error:
        return str(error)[:200]
    return None
