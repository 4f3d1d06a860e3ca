"""From questions about pictures and pages to tensors."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from glyph_vqa.pack import KEYS as PICTURE_WORDS
from glyph_vqa.pack import SUFFIX, aligned
from tokenizers import Tokenizer
from torch import Tensor

from .page import KEYS, STEPS
from .questions import Asked

STEP_WORDS = frozenset((*PICTURE_WORDS, *KEYS, *STEPS, *map(str, range(100))))  # words that have an entry in `looks`


@dataclass(frozen=True)
class Packed:
    """Questions as ids [B, Q, T]; targets [B, Q, T] is the next token inside answers, -100 elsewhere.

    anchors [n] are flat indices into B*Q*T of key and step words; row [n], entry [n] and hops [n] say which mark or
    entry of which row they lead to after how many lookups, sought [n, fields] by what it is found. spoken [m] are flat
    indices of the tokens that say an answer, last [m] the place in the question of the word that leads to it.
    """

    ids: Tensor
    targets: Tensor
    anchors: Tensor
    entry: Tensor
    hops: Tensor
    sought: Tensor
    spoken: Tensor
    last: Tensor


class Packer:
    """Packs questions with one tokenizer; ids of texts are kept."""

    def __init__(self, tokenizer: Tokenizer, fields: tuple[str, ...]) -> None:
        self.tokenizer, self.fields = tokenizer, fields
        self.pad, self.end = (tokenizer.token_to_id(t) for t in ("<|endoftext|>", "<|im_end|>"))
        self.suffix = tokenizer.encode(SUFFIX).ids
        self.words = {i for token, i in tokenizer.get_vocab().items() if token.removeprefix("Ġ") in STEP_WORDS}

    def prefix_ids(self, units: int, pictures: int = 1) -> list[int]:
        """Return the ids before the question: the chat header and pictures of `units` tokens each."""
        image = "<|vision_start|>" + "<|image_pad|>" * units + "<|vision_end|>"
        return self.tokenizer.encode("<|im_start|>user\n" + image * pictures).ids

    def pack(self, rows: list[list[Asked]]) -> Packed:
        """Pack rows of equally many questions, padding on the right to the longest."""
        sequences, answers, anchors, entry, hops, sought, spoken, last = ([] for _ in range(8))
        for question in (q for row in rows for q in row):
            prompt = self.tokenizer.encode(question.text).ids
            answer = [*self.tokenizer.encode(question.answer).ids, self.end]
            places = [i for i, token in enumerate(prompt) if token in self.words]
            if question.looks and len(places) != len(question.looks):
                raise ValueError(
                    f"{question.text!r} has {len(places)} key words, its lookups are {len(question.looks)}"
                )
            for at, look in zip(places, question.looks, strict=False):
                if look is not None:
                    anchors.append((len(sequences), at))
                    entry.append(look.entry)
                    hops.append(look.hops)
                    sought.append([name in look.sought for name in self.fields])
            if question.looks:
                spoken.append((len(sequences), len(prompt) + len(self.suffix) - 1))
                last.append(places[-1])
            answers.append((len(prompt) + len(self.suffix) - 1, len(answer)))
            sequences.append(prompt + self.suffix + answer)
        ids, targets = aligned(sequences, answers, self.pad)
        length = ids.shape[1]
        shape = (len(rows), len(rows[0]), length)
        flat, speakers = (torch.tensor([i * length + at for i, at in x]).long() for x in (anchors, spoken))
        numbers = (torch.tensor(x).long() for x in (entry, hops))
        wanted = torch.tensor(sought).bool().view(-1, len(self.fields))
        packed, targets_ = torch.from_numpy(ids).view(shape), torch.from_numpy(targets).view(shape)
        return Packed(packed, targets_, flat, *numbers, wanted, speakers, torch.tensor(last).long())
