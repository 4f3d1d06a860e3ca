"""Ask a checkpoint thousands of questions under many plans, through the very modules the exporter traces.

Two things make it quick and change no answer. A picture goes through the encoder once per way of merging. And where
what a prune keeps does not depend on the question, the visual span goes through the decoder once a picture; questions
continue from its cache. An answer is right when each of its tokens has the highest logit after the right ones before
it, which is when greedy decoding says it.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from luvc_export.calibration.cases import Case
from luvc_export.calibration.runners.base import ends
from luvc_export.calibration.runners.compressed import TorchCalls
from luvc_export.calibration.runners.text import Tokens
from luvc_export.core import graph_io
from luvc_export.core.plan import Plan
from luvc_export.core.token_layout import TokenLayout, arrange
from luvc_export.export.checkpoint import Checkpoint
from luvc_export.export.compression import scores
from luvc_export.runtime import batching

#: Pictures and questions in one call; questions of like length share one, so that little is padding.
_PICTURES, _QUESTIONS = 24, 64


class Asked(NamedTuple):
    """A case in tokens: the prompt with one placeholder a picture, and the tokens a right answer needs."""

    prompt: list[int]
    answer: list[int]
    pictures: tuple[int, ...]


class PlanEvaluator:
    """Answers cases under plans.

    Args:
        checkpoint: Where ``model`` is from.
        model: From ``runners.load_model``, fp32.
        cases: Questions with answers.
        stops: Whether a right answer must end.
        answers: Tokens that count as right for each case, in place of its own answer and end.
    """

    def __init__(
        self,
        checkpoint: Checkpoint,
        model: Any,
        cases: Sequence[Case],
        stops: bool,
        answers: Sequence[Sequence[int]] | None = None,
    ) -> None:
        self.checkpoint, self.model, self.cases = checkpoint, model, cases
        tokens = Tokens(checkpoint)
        end = sorted(ends(model.generation_config.eos_token_id))[:1] if stops else []
        numbers: dict[int, int] = {}
        self.pictures: list[NDArray[np.uint8]] = []
        self.asked: list[Asked] = []
        for index, case in enumerate(cases):
            for image in case.images:
                if id(image) not in numbers:
                    numbers[id(image)] = len(self.pictures)
                    self.pictures.append(image)
            if answers is not None:
                right = list(answers[index])
            else:
                right = [*tokens.tokenizer(case.answer, add_special_tokens=False).input_ids, *end]
            self.asked.append(Asked(tokens.encode(case), right, tuple(numbers[id(i)] for i in case.images)))
        self.image_token = tokens.image_token_id
        self._seen: dict[Plan, tuple[NDArray[Any], NDArray[np.float32]]] = {}

    def right(self, plan: Plan, cases: range | None = None) -> list[bool]:
        """Whether each case (of ``cases``) is answered right; the grid of ``plan`` decides the size of pictures."""
        calls = TorchCalls(self.checkpoint, self.model, plan)
        embeds, positions = self.encode_images(calls)
        whole = (
            scores.find(plan.score).reads_text and plan.reducer == "prune" and any(keep for _, _, keep in plan.prunes)
        )
        groups: dict[tuple[int, ...], list[int]] = defaultdict(list)
        chosen = range(len(self.asked)) if cases is None else cases
        for index in chosen:
            asked = self.asked[index]
            groups[(len(asked.pictures), *((index,) if whole else asked.pictures))].append(index)
        verdict = dict.fromkeys(chosen, False)
        batches: dict[int, list[list[int]]] = defaultdict(list)
        for key, members in groups.items():
            batches[key[0]].append(members)
        for lots in batches.values():
            for first in range(0, len(lots), _PICTURES):
                some = lots[first : first + _PICTURES]
                for index, right in self._ask(calls, some, embeds, positions, whole):
                    verdict[index] = right
        return [verdict[index] for index in chosen]

    def encode_images(self, calls: TorchCalls) -> tuple[NDArray[Any], NDArray[np.float32]]:
        """Embeddings [pictures, N_0, D] and positions of every picture, remembered by what concerns the encoder."""
        plan = calls.plan
        names = ("grid", "merges", "merge_mode", "positions", "windows", "size_bias")
        kept = {name: getattr(plan, name) for name in names}
        key = Plan(keep=(0,), **kept)
        if key not in self._seen:
            unit = self.checkpoint.family.unit_pixels(self.checkpoint.config)
            size = (plan.grid[1] * unit, plan.grid[0] * unit)
            found = []
            for first in range(0, len(self.pictures), _PICTURES):
                some = [np.asarray(_resized(p, size)) for p in self.pictures[first : first + _PICTURES]]
                found.append(calls.vision(np.stack(some)[:, None]))
            self._seen[key] = tuple(np.concatenate(parts) for parts in list(zip(*found, strict=True))[:2])  # type: ignore[assignment]
        return self._seen[key]

    def _ask(
        self, calls: TorchCalls, lots: list[list[int]], embeds: Any, positions: Any, whole: bool
    ) -> list[tuple[int, bool]]:
        """Prefill each lot's shared part (or its one whole prompt), then its questions; the verdict by case."""
        layouts: list[TokenLayout] = []
        for lot in lots:
            asked = self.asked[lot[0]]
            shared = asked.prompt if whole else asked.prompt[: self._shared(asked)]
            visual_positions = positions[list(asked.pictures)]
            layouts.append(self.arrange(calls, shared, visual_positions))
        visual = embeds[[list(self.asked[lot[0]].pictures) for lot in lots]]
        feeds = batching.feeds(layouts, visual)
        last = feeds[graph_io.TEXT_MASK].sum(1) - 1
        feeds[graph_io.LOGITS_INDICES] = last[:, None]
        with torch.no_grad():
            logits, presents, _ = _run(calls, feeds, calls.empty(len(lots)))
        rows = [(number, index) for number, lot in enumerate(lots) for index in lot]
        rows.sort(key=lambda row: len(self.asked[row[1]].prompt) + len(self.asked[row[1]].answer))
        found = []
        for first in range(0, len(rows), _QUESTIONS):
            some = rows[first : first + _QUESTIONS]
            found += self._continue(calls, some, layouts, feeds[graph_io.TEXT_MASK], logits, presents, whole)
        return found

    def _continue(
        self,
        calls: TorchCalls,
        rows: list[tuple[int, int]],
        layouts: list[TokenLayout],
        mask: NDArray[np.bool_],
        logits: Tensor,
        presents: list[Tensor],
        whole: bool,
    ) -> list[tuple[int, bool]]:
        tails, starts = [], []
        for _, index in rows:
            asked = self.asked[index]
            question = [] if whole else asked.prompt[self._shared(asked) :]
            tails.append([*question, *asked.answer[:-1]])
            starts.append(len(question) - 1)
        parents = torch.tensor([number for number, _ in rows])
        guesses: Any = None
        if any(tails):
            none = self.encode_images(calls)[1][:0]
            parts = [
                self.arrange(calls, tail or [0], none, layouts[number])
                for tail, (number, _) in zip(tails, rows, strict=True)
            ]
            feeds = batching.feeds(
                parts, np.zeros((len(rows), 0, calls.plan.vision_tokens, calls.shape.hidden), np.float32)
            )
            feeds[graph_io.TEXT_MASK] = np.concatenate([mask[parents.numpy()], feeds[graph_io.TEXT_MASK]], 1)
            with torch.no_grad():
                guesses = _run(calls, feeds, [part.index_select(0, parents) for part in presents])[0].argmax(-1)
        found = []
        for row, (number, index) in enumerate(rows):
            answer, start = self.asked[index].answer, starts[row]
            said = [int(logits[number, -1].argmax())] if start < 0 else [int(guesses[row, start])]
            said += [int(token) for token in guesses[row, start + 1 : start + len(answer)]] if len(answer) > 1 else []
            found.append((index, said == answer))
        return found

    def _shared(self, asked: Asked) -> int:
        """Length of the prompt up to its last placeholder."""
        return len(asked.prompt) - asked.prompt[::-1].index(self.image_token) if asked.pictures else 1

    def arrange(
        self, calls: TorchCalls, ids: list[int], visual_positions: Any, before: TokenLayout | None = None
    ) -> TokenLayout:
        """Positions and order of a prompt, or of what follows ``before``."""
        kind = self.checkpoint.family.position_kind
        begin = (before.next_position, before.next_order) if before else (0, 0)
        return arrange(ids, self.image_token, visual_positions, calls.plan.grid, kind, *begin)


def _run(calls: TorchCalls, feeds: batching.Feeds, past: list[Tensor]) -> Any:
    inputs = [torch.tensor(feeds[name]) for name in graph_io.DECODER_INPUTS]
    return calls.decoder(*inputs, past)


def _resized(picture: NDArray[np.uint8], size: tuple[int, int]) -> Image.Image:
    image = Image.fromarray(picture)
    return image if image.size == size else image.resize(size, Image.Resampling.BICUBIC)
