"""Prompts through transformers' own tokenizer and chat template, apart from the runtime's, so that parity sees both."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from luvc_export.bundle.manifest import Prompt
from luvc_export.core.files.template_source import template_source
from luvc_export.core.tiling import Tiling
from luvc_export.errors import CheckpointError
from luvc_export.export.checkpoint import Checkpoint
from luvc_export.runtime.prompt.encoder import PromptEncoder, Question


class Tokens(PromptEncoder):
    """Tokenizer of a checkpoint. What stands for a picture, its tiles or a video is what the family's processor writes.

    Args:
        checkpoint: Where the tokenizer is from.
        prompt: How the family writes media.
    """

    def __init__(self, checkpoint: Checkpoint, prompt: Prompt) -> None:
        from transformers import AutoTokenizer

        self.transformers: Any = AutoTokenizer.from_pretrained(checkpoint.folder, local_files_only=True)
        self.image_token_id = prompt.image_token_id
        self.prefix = prompt.prefix
        self.cuts = prompt.cuts or (Tiling((self.image_token_id,)),)
        self.chat_template = _template(checkpoint.folder)
        self._where = str(checkpoint.folder)
        self._capacity, self._longest = prompt.text_capacity, max(map(len, self.transformers.get_vocab()))
        self._marks(prompt, str(self.transformers.convert_ids_to_tokens(self.image_token_id)))

    def render(self, asked: Question) -> str:
        """See ``PromptEncoder``; transformers renders."""
        if self.chat_template is None:
            return self._plainly(asked)
        template = self.template_of_videos(asked) or self.chat_template
        text: str = self.transformers.apply_chat_template(
            list(asked.messages), chat_template=template, tokenize=False, add_generation_prompt=True
        )
        return text

    def _check_length(self, letters: int, written: int) -> None:
        """A checkpoint has no text capacity, and cases are the user's own."""

    def _ids(self, text: str) -> list[int]:
        bos = self.transformers.bos_token
        whole = self.prefix is not None or (bos and text.startswith(bos))
        return list(self.transformers(text, add_special_tokens=not whole).input_ids)

    def decode(self, ids: Sequence[int]) -> str:
        """Text of an answer without special tokens."""
        return str(self.transformers.decode(list(ids), skip_special_tokens=True))


def _template(folder: Path) -> str | None:
    """The template that transformers' processor takes: its tokenizer knows of some files alone."""

    def read(name: str) -> bytes | None:
        return (folder / name).read_bytes() if (folder / name).is_file() else None

    template = template_source(read, CheckpointError, str(folder))
    return None if template is None else template.text
