"""Prompts through transformers' own tokenizer and chat template, apart from the runtime's, so that parity sees both."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from luvc_export.bundle.manifest import Prompt
from luvc_export.core.tiling import Tiling
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
        self.cuts = prompt.cuts or (Tiling((self.image_token_id,)),)
        self.legacy = _legacy_template(checkpoint)
        self._where = str(checkpoint.folder)
        self._marks(prompt, str(self.transformers.convert_ids_to_tokens(self.image_token_id)))

    def render(self, asked: Question) -> str:
        """See ``PromptEncoder``; transformers renders."""
        template = self.transformers.chat_template or self.legacy
        if template is None:
            return self.marker * len(asked.media) + str(asked.plain)
        text: str = self.transformers.apply_chat_template(
            list(asked.messages), chat_template=template, tokenize=False, add_generation_prompt=True
        )
        return text

    def _ids(self, text: str) -> list[int]:
        bos = self.transformers.bos_token
        return list(self.transformers(text, add_special_tokens=not (bos and text.startswith(bos))).input_ids)

    def decode(self, ids: Sequence[int]) -> str:
        """Text of an answer without special tokens."""
        return str(self.transformers.decode(list(ids), skip_special_tokens=True))


def _legacy_template(checkpoint: Checkpoint) -> str | None:
    """``chat_template.json``, which transformers' processors read and its tokenizers do not."""
    path = checkpoint.folder / "chat_template.json"
    given = json.loads(path.read_text(encoding="utf-8")).get("chat_template") if path.is_file() else None
    return None if given is None else str(given)
