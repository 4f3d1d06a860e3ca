"""From questions to token ids, in SmolLM2's chat template."""

from __future__ import annotations

import torch
from tokenizers import Tokenizer
from torch import Tensor

from luvc_export.demo.scene import GRID as GRID

from .base import SYSTEM
from .questions import Asked

HEAD = f"<|im_start|>system\n{SYSTEM}<|im_end|>\n<|im_start|>user\n<|vision_start|>"
TAIL = "<|im_end|>\n<|im_start|>assistant\n"
END = "<|im_end|>"


class Packer:
    """Packs questions with one tokenizer; `head` are the ids before a picture."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self.tokenizer, self.end = tokenizer, tokenizer.token_to_id(END)
        self.head, self.tail = self.encode(HEAD), self.encode(TAIL)

    def encode(self, text: str) -> list[int]:
        """Return the ids of a text."""
        return self.tokenizer.encode(text, add_special_tokens=False).ids

    def pack(self, rows: list[Asked]) -> tuple[Tensor, Tensor]:
        """Return ids and targets [Q, T] of (question, answer): a target is the next token in an answer, or -100."""
        prompts = [self.encode(question) + self.tail for question, _ in rows]
        answers = [[*self.encode(answer), self.end] for _, answer in rows]
        length = max(len(p) + len(a) for p, a in zip(prompts, answers, strict=True)) - 1
        ids = torch.full((len(rows), length), self.end)
        targets = torch.full((len(rows), length), -100)
        for n, (prompt, answer) in enumerate(zip(prompts, answers, strict=True)):
            ids[n, : len(prompt) + len(answer) - 1] = torch.tensor(prompt + answer[:-1])
            targets[n, len(prompt) - 1 : len(prompt) + len(answer) - 1] = torch.tensor(answer)
        return ids, targets
