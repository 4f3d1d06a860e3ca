"""Prompts through transformers' own tokenizer and chat template, apart from the runtime's, so that parity sees both."""

from __future__ import annotations

from collections.abc import Sequence

from luvc_export.calibration.cases import Case
from luvc_export.errors import CheckFailed
from luvc_export.export.checkpoint import Checkpoint


class Tokens:
    """Tokenizer of a checkpoint; ``encode`` leaves one placeholder a picture."""

    def __init__(self, checkpoint: Checkpoint) -> None:
        from transformers import AutoTokenizer

        self.tokenizer = AutoTokenizer.from_pretrained(checkpoint.folder, local_files_only=True)
        self.image_token_id = checkpoint.family.image_token_id(checkpoint.config)

    def encode(self, case: Case) -> list[int]:
        """Token ids of a case.

        Raises:
            CheckFailed: The template does not write one placeholder a picture.
        """
        content = [*({"type": "image"} for _ in case.images), {"type": "text", "text": case.prompt}]
        if self.tokenizer.chat_template:
            messages = [{"role": "user", "content": content}]
            text = self.tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
            bos = self.tokenizer.bos_token
            ids = self.tokenizer(text, add_special_tokens=not (bos and text.startswith(bos))).input_ids
        else:
            pad = self.tokenizer.convert_ids_to_tokens(self.image_token_id)
            ids = self.tokenizer(pad * len(case.images) + case.prompt).input_ids
        if ids.count(self.image_token_id) != len(case.images):
            raise CheckFailed(
                "transformers' chat template does not write one placeholder a picture",
                got=ids.count(self.image_token_id),
                expected=len(case.images),
            )
        return list(ids)

    def decode(self, ids: Sequence[int]) -> str:
        """Text of an answer without special tokens."""
        return str(self.tokenizer.decode(list(ids), skip_special_tokens=True))
