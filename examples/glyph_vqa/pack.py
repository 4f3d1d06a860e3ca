"""From questions to tensors: token ids, targets, intermediate labels, and the prefix they share."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from tokenizers import Tokenizer
from torch import Tensor, nn

from luvc_export.demo.questions import CHAINS, DEPENDENT, MOVES, NUMBER, GlyphQuestion
from luvc_export.demo.scene import GRID, NAMES

from .decoder import Prefix

SUFFIX = "<|im_end|>\n<|im_start|>assistant\n"
LENGTH = 32  # longest question with its answer, in tokens
KEYS = frozenset((*NAMES, *map(str, range(10)), *NUMBER, *MOVES, "next"))  # words that have an entry in a trail


@dataclass(frozen=True)
class Packed:
    """Questions as ids [B, Q, T]; targets [B, Q, T] is the next token inside answers, -100 elsewhere.

    anchors [n] are flat indices into B*Q*T of key words, trail [n, 4] the digit, colour, row and column they lead to,
    hops [n] how many lookups must come before the word's own, by_digit [n] whether the word is `next`, which looks for
    a digit, not for a cell. counted [m] are flat indices of the colours of questions about how many, among [m, 10] has
    a one for each digit of that colour. For questions of dependent lookups, spoken [k] are flat indices of the token
    that says the answer and last [k] the place in the question of the word that leads to it.
    """

    ids: Tensor
    targets: Tensor
    anchors: Tensor
    trail: Tensor
    hops: Tensor
    by_digit: Tensor
    counted: Tensor
    among: Tensor
    spoken: Tensor
    last: Tensor


class Packer:
    """Packs questions with one tokenizer; ids of words are cached."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self.tokenizer = tokenizer
        self.pad, self.end = (tokenizer.token_to_id(t) for t in ("<|endoftext|>", "<|im_end|>"))
        self.suffix = tokenizer.encode(SUFFIX).ids
        vocabulary = tokenizer.get_vocab().items()
        self.next = tokenizer.token_to_id("Ġnext")
        self.keys = {i for token, i in vocabulary if token.removeprefix("Ġ") in KEYS}

    def prefix_ids(self, pictures: int) -> list[int]:
        """Return the ids before the question: the chat header and `pictures` pictures."""
        image = "<|vision_start|>" + "<|image_pad|>" * (GRID[0] * GRID[1]) + "<|vision_end|>"
        return self.tokenizer.encode("<|im_start|>user\n" + image * pictures).ids

    def pack(self, rows: list[list[GlyphQuestion]]) -> Packed:
        """Pack rows of equally many questions, padding on the right to the longest."""
        sequences, answers, anchors, trail, hops, by_digit = [], [], [], [], [], []
        counted, among, spoken, last = [], [], [], []
        for question in (q for row in rows for q in row):
            prompt = self.tokenizer.encode(question.text).ids
            answer = [*self.tokenizer.encode(question.answer).ids, self.end]
            places = [i for i, token in enumerate(prompt) if token in self.keys]
            if question.trail and len(places) != len(question.trail):
                raise ValueError(f"{question.text!r} has {len(places)} key words, its trail {len(question.trail)}")
            for at, mark in zip(places, question.trail, strict=False):
                if mark is not None:
                    anchors.append((len(sequences), at))
                    trail.append((mark.digit, NAMES.index(mark.colour), mark.row, mark.column))
                    by_digit.append(prompt[at] == self.next)
                    hops.append(places.index(at) if question.kind in DEPENDENT else 0)
            if question.kind == "count" and question.trail:
                counted.append((len(sequences), places[0]))
                among.append([float(any(m.digit == d for m in question.among)) for d in range(10)])
            if question.kind in CHAINS and question.trail:
                spoken.append((len(sequences), len(prompt) + len(self.suffix) - 1))
                last.append(places[-1])
            answers.append((len(prompt) + len(self.suffix) - 1, len(answer)))
            sequences.append(prompt + self.suffix + answer)
        ids, targets = aligned(sequences, answers, self.pad)
        length = ids.shape[1]
        shape = (len(rows), len(rows[0]), length)
        flat, colours, speakers = (
            torch.tensor([i * length + at for i, at in x]).long() for x in (anchors, counted, spoken)
        )
        packed, wanted = torch.from_numpy(ids).view(shape), torch.from_numpy(targets).view(shape)
        words = (torch.tensor(trail).long(), torch.tensor(hops).long(), torch.tensor(by_digit).bool())
        return Packed(packed, wanted, flat, *words, colours, torch.tensor(among), speakers, torch.tensor(last).long())


def aligned(
    sequences: list[list[int]], answers: list[tuple[int, int]], pad: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return ids and targets [questions, T], padded on the right; `answers` holds where each answer begins, its length.

    The last token of a sequence is only ever a target.
    """
    length = max(map(len, sequences)) - 1
    ids = np.full((len(sequences), length), pad, dtype=np.int64)
    targets = np.full((len(sequences), length), -100, dtype=np.int64)
    for i, (sequence, (first, n)) in enumerate(zip(sequences, answers, strict=True)):
        ids[i, : len(sequence) - 1] = sequence[:-1]
        targets[i, first : first + n] = sequence[first + 1 : first + 1 + n]
    return ids, targets


def shared_prefix(
    embedding: nn.Module, ids: list[int], image_token: int, visual: Tensor, grid: tuple[int, int] = GRID
) -> Prefix:
    """Return the prefix of rows whose visual embeddings are [B, pictures * units, D], with M-RoPE positions.

    Positions are those of transformers' `get_rope_index`: text counts up; a picture's tokens share one temporal
    position and add their row and column; the text after it goes on past the larger side.
    """
    positions, now, i = [], 0, 0
    while i < len(ids):
        if ids[i] == image_token:
            positions += [(now, now + r, now + c) for r in range(grid[0]) for c in range(grid[1])]
            now, i = now + max(grid), i + grid[0] * grid[1]
        else:
            positions.append((now, now, now))
            now, i = now + 1, i + 1
    device = visual.device
    tokens = torch.tensor(ids, device=device)
    where = tokens == image_token
    embeddings = embedding(tokens)[None].repeat(len(visual), 1, 1).to(visual.dtype)
    embeddings[:, where] = visual
    return Prefix(embeddings, torch.tensor(positions, device=device).T, where)
