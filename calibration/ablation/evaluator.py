"""Ask a checkpoint thousands of questions under many plans, through the very modules the exporter traces.

Two things make it quick and change no answer. An image goes through the encoder once per way of merging. And where
what a prune keeps does not depend on the question, the visual span goes through the decoder once for the same images;
questions continue from its cache. An answer is right when each of its tokens has the highest logit after the right ones
before it, which is when greedy decoding says it.
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from luvc_export.bundle.manifest import ImageInput, Manifest
from luvc_export.calibration.cases import Case
from luvc_export.calibration.runners.base import ends
from luvc_export.calibration.runners.canvas import Tokens, canvas_for, prepare
from luvc_export.calibration.runners.compressed import TorchCalls
from luvc_export.core import graph_io
from luvc_export.core.plan import EncoderPlan, Plan, Sharing
from luvc_export.core.token_layout import Block, TokenLayout, behind
from luvc_export.export.checkpoint import Checkpoint
from luvc_export.runtime import batching
from luvc_export.runtime.graphs import decoder_feeds, no_images
from luvc_export.runtime.media.padding import padding_tokens
from luvc_export.runtime.model import TokensPrompt
from luvc_export.runtime.state import VisualFeatures, join_features

#: Pictures and questions in one call; questions of like length share one, so that little is padding.
_PICTURES, _QUESTIONS = 24, 64


#: An image uint8 [F, H, W, 3], and which of its units are padding, bool [H0, W0].
Shown = tuple[NDArray[np.uint8], NDArray[np.bool_]]


class Asked(NamedTuple):
    """A case in tokens: the prompt with one placeholder an image, and the tokens a right answer needs.

    ``shared`` is the length of the prompt up to its last image and what belongs to it.
    """

    prompt: list[int]
    answer: list[int]
    pictures: tuple[int, ...]
    blocks: Mapping[int, Block]
    shared: int


class PlanEvaluator:
    """Answers cases under plans.

    Args:
        checkpoint: Where ``model`` is from.
        model: From ``runners.load_model``, fp32.
        cases: Questions with answers.
        stops: Whether a right answer must end.
        answers: Tokens that count as right for each case, in place of its own answer and end.
        image: What pictures are fitted to, and how they are cut; None makes them as large as a plan's grid. A plan of
            another grid sees them in that size.
    """

    def __init__(
        self,
        checkpoint: Checkpoint,
        model: Any,
        cases: Sequence[Case],
        stops: bool,
        answers: Sequence[Sequence[int]] | None = None,
        image: Manifest | None = None,
    ) -> None:
        self.checkpoint, self.model, self.cases = checkpoint, model, cases
        unit = checkpoint.family.unit_pixels(checkpoint.config)
        size = checkpoint.family.image_size(checkpoint.config) or (unit, unit)
        self.image = image or canvas_for(checkpoint, ImageInput(size, "stretch", (128, 128, 128)))
        self.tokens = Tokens(checkpoint, self.image.prompt)
        end = sorted(ends(model.generation_config.eos_token_id))[:1] if stops else []
        self.answers = [
            list(answers[index])
            if answers is not None
            else [*self.tokens.transformers(case.answer, add_special_tokens=False).input_ids, *end]
            for index, case in enumerate(cases)
        ]
        self.image_token = self.image.prompt.image_token_id
        self._asked: dict[tuple[Any, ...], tuple[list[Asked], list[Shown]]] = {}
        self._seen: dict[tuple[EncoderPlan, Sharing], VisualFeatures] = {}

    def asked(self, plan: Plan) -> list[Asked]:
        """Every case as ``plan`` sees it."""
        return self._ready(plan)[0]

    def median_text(self, plan: Plan) -> int:
        """Text tokens of the median prompt."""
        return int(np.median([len(asked.prompt) - len(asked.pictures) for asked in self.asked(plan)]))

    def _ready(self, plan: Plan) -> tuple[list[Asked], list[Shown]]:
        """Cases in tokens, and the images they show, each once."""
        key = (plan.grid, plan.sharing.without_quota(), plan.encoder.time is None)
        if key not in self._asked:
            unit = self.checkpoint.family.unit_pixels(self.checkpoint.config)
            own = self.checkpoint.family.image_size(self.checkpoint.config)
            size = own or (plan.grid[0] * unit, plan.grid[1] * unit)
            manifest = replace(self.image, image=replace(self.image.image, size=size))
            numbers: dict[bytes, int] = {}
            asked, images = list[Asked](), list[Shown]()
            for case, answer in zip(self.cases, self.answers, strict=True):
                request = prepare(case, self.tokens, manifest, plan)
                places = []
                shown = list(request.padded_images(plan))
                digests = [hashlib.sha256(pixels.tobytes() + padding.tobytes()).digest() for pixels, padding in shown]
                if plan.encoder.time is not None:  # what a frame becomes depends on its clip, which stays together
                    clip = b"".join(digests)
                    digests = [clip + bytes(str(place), "ascii") for place in range(len(shown))]
                for (pixels, padding), digest in zip(shown, digests, strict=True):
                    number = numbers.setdefault(digest, len(images))
                    if number == len(images):
                        images.append((pixels, padding))
                    places.append(number)
                prompt = list(request.token_ids)
                shared = _shared(prompt, self.image_token, request.blocks, plan.grid)
                asked.append(Asked(prompt, answer, tuple(places), request.blocks, shared))
            self._asked[key] = asked, images
        return self._asked[key]

    def right(self, plan: Plan, cases: range | None = None) -> list[bool]:
        """Whether each case (of ``cases``) is answered right; the grid of ``plan`` decides the size of pictures."""
        every, answers = self.asked(plan), self._said(plan, cases, lambda rows: rows.argmax(-1))
        chosen = range(len(every)) if cases is None else cases
        return [answers[index].tolist() == every[index].answer for index in chosen]

    def predictions(self, plan: Plan, cases: range) -> list[Tensor]:
        """Log probabilities fp32 [tokens of the answer, vocabulary] of each of ``cases``, right tokens before each."""
        predictions = self._said(plan, cases, lambda rows: rows.float().log_softmax(-1))
        return [predictions[index] for index in cases]

    def vectors(self, plan: Plan, cases: range) -> list[NDArray[np.float32]]:
        """Where nothing is decoded, vectors float32 [n, D] of each of ``cases``; no page is padded."""
        how, every = self.image.embedding, self.asked(plan)
        calls = TorchCalls(self.checkpoint, self.model, plan, how)
        seen, vectors = self.encode_images(calls), dict[int, NDArray[np.float32]]()
        lots: dict[tuple[int, int], list[int]] = defaultdict(list)
        for at in cases:
            lots[len(every[at].prompt), len(every[at].pictures)].append(at)
        for some in [lot[at : at + _PICTURES] for lot in lots.values() for at in range(0, len(lot), _PICTURES)]:
            passages = [TokensPrompt(every[at].prompt, blocks=every[at].blocks) for at in some]
            shown = seen.some([place for at in some for place in every[at].pictures])
            _, feeds = self.feeds(plan, passages, shown, all_logits=how is not None and how.pooling == "every")
            with torch.no_grad():
                rows = calls.decode_tensors(feeds, calls.empty(len(some)))[0]
            vectors |= dict(zip(some, rows.float().cpu().numpy(), strict=True))
        return [vectors[at] for at in cases]

    def _said(self, plan: Plan, cases: range | None, take: Callable[[Tensor], Tensor]) -> dict[int, Tensor]:
        """What ``take`` makes of the logits [tokens of the answer, vocabulary], by case."""
        calls = TorchCalls(self.checkpoint, self.model, plan)
        seen = self.encode_images(calls)
        whole = plan.reads_text and plan.llm.reducer == "prune"
        every = self.asked(plan)
        groups: dict[tuple[Any, ...], list[int]] = defaultdict(list)
        chosen = range(len(every)) if cases is None else cases
        for index in chosen:
            asked = every[index]
            alike = (index,) if whole else (asked.pictures, *asked.prompt[: asked.shared])
            groups[(len(asked.pictures), *alike)].append(index)
        by_case = dict[int, Tensor]()
        batches: dict[int, list[list[int]]] = defaultdict(list)
        for key, members in groups.items():
            batches[key[0]].append(members)
        for lots in batches.values():
            for first in range(0, len(lots), _PICTURES):
                some = lots[first : first + _PICTURES]
                by_case.update(self._ask(calls, some, seen, whole, take))
        return by_case

    def encode_images(self, calls: TorchCalls) -> VisualFeatures:
        """Of every image. Remembered by what concerns the encoder."""
        plan = calls.plan
        key = (plan.encoder, plan.sharing.without_quota())
        if key not in self._seen:
            images = self._ready(plan)[1]
            parts, size = [], plan.sharing.images
            some = max(size, _PICTURES // size * size)  # whole clips
            for first in range(0, len(images), some):
                pixels, padding = (np.stack(part) for part in zip(*images[first : first + some], strict=True))
                embeds, positions, merged = calls.vision(pixels, padding if plan.encoder.reads_padding else None)
                void = padding_tokens(padding, merged, plan.vision_tokens)
                parts.append(VisualFeatures(embeds, positions, padding=void))
            self._seen[key] = join_features(parts) if parts else no_images(self.image, plan)
        return self._seen[key]

    def _ask(
        self,
        calls: TorchCalls,
        lots: list[list[int]],
        seen: VisualFeatures,
        whole: bool,
        take: Callable[[Tensor], Tensor],
    ) -> list[tuple[int, Tensor]]:
        """Prefill each lot's shared part (or its one whole prompt), then its questions; what was said, by case."""
        every = self.asked(calls.plan)
        prompts = [every[lot[0]] for lot in lots]
        passages = [
            TokensPrompt(one.prompt if whole else one.prompt[: one.shared], blocks=one.blocks) for one in prompts
        ]
        shown = seen.some([place for lot in lots for place in every[lot[0]].pictures])
        layouts, feeds = self.feeds(calls.plan, passages, shown)
        with torch.no_grad():
            logits, presents, _ = calls.decode_tensors(feeds, calls.empty(len(lots)))

        def ask_on(rows: list[tuple[int, int]]) -> Iterator[tuple[int, Tensor]]:
            """Go on behind prefilled lots: a row is the number of its lot and the index of its case."""
            tails, starts = [], []
            for _, index in rows:
                question = [] if whole else every[index].prompt[every[index].shared :]
                tails.append([*question, *every[index].answer[:-1]])
                starts.append(len(question) - 1)
            parents = torch.tensor([number for number, _ in rows], device=calls.device)
            guesses: Any = None
            if any(tails):
                starting = ((layouts[number].next_position, layouts[number].next_order) for number, _ in rows)
                behind = [
                    TokensPrompt(tail or [0], None, {}, None, *start)
                    for tail, start in zip(tails, starting, strict=True)
                ]
                more = self.feeds(calls.plan, behind, all_logits=True)[1]
                mask = feeds[graph_io.TEXT_MASK][[number for number, _ in rows]]
                more[graph_io.TEXT_MASK] = np.concatenate([mask, more[graph_io.TEXT_MASK]], 1)
                with torch.no_grad():
                    past = [part.index_select(0, parents) for part in presents]
                    guesses = take(calls.decode_tensors(more, past)[0])
            for row, (number, index) in enumerate(rows):
                answer, start = every[index].answer, starts[row]
                pieces = [take(logits[number, -1:])] if start < 0 else [guesses[row, start : start + 1]]
                pieces += [guesses[row, start + 1 : start + len(answer)]] if len(answer) > 1 else []
                yield index, torch.cat(pieces).cpu()

        rows = [(number, index) for number, lot in enumerate(lots) for index in lot]
        rows.sort(key=lambda row: len(every[row[1]].prompt) + len(every[row[1]].answer))
        chunks = (rows[first : first + _QUESTIONS] for first in range(0, len(rows), _QUESTIONS))
        return [answered for chunk in chunks for answered in ask_on(chunk)]

    def feeds(
        self, plan: Plan, passages: Sequence[TokensPrompt], seen: VisualFeatures | None = None, all_logits: bool = False
    ) -> tuple[list[TokenLayout], batching.Feeds]:
        """See ``decoder_feeds``."""
        return decoder_feeds(self.image, plan, passages, seen, all_logits)


def _shared(prompt: list[int], image_token: int, blocks: Mapping[int, Block], grid: tuple[int, int]) -> int:
    """Length of the prompt up to its last placeholder and the ends of rows that belong to it; 1 without images."""
    if image_token not in prompt:
        return 1
    last = len(prompt) - 1 - prompt[::-1].index(image_token)
    ends = [behind(block, prompt, last, image_token, grid) for block in blocks.values()]
    return last + 1 + max(ends, default=0)
