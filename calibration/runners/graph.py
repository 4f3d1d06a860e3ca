"""A runner made of a vision graph and a decoder graph, whatever runs them: torch modules, ONNX Runtime, an engine."""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from luvc_export.bundle.manifest import Manifest
from luvc_export.calibration.cases import Case
from luvc_export.calibration.runners.base import (
    LOGITS,
    Features,
    Kept,
    Observation,
    Said,
    planes,
    probe,
    same_images,
)
from luvc_export.core import graph_io
from luvc_export.core.plan import Plan
from luvc_export.core.token_layout import TokenLayout, arrange
from luvc_export.runtime import batching
from luvc_export.runtime.graphs import grouped
from luvc_export.runtime.media.padding import padding_tokens
from luvc_export.runtime.prompt.request import Request

#: Pictures whose visual embeddings are remembered: questions about one picture come together.
_REMEMBERED = 64


@dataclass(frozen=True)
class Decoded:
    """What one decoder call gives for a batch.

    Attributes:
        logits: [B, n, vocab].
        kept: Per prune [B, G, keep].
        scores: Per prune [B, G, N]; empty where the calls cannot tell.
        hidden: Entering each layer [B, S, D]; empty where the calls cannot tell.
        cache: For the next call.
    """

    logits: NDArray[np.float32]
    kept: Kept
    scores: dict[int, NDArray[np.float32]]
    hidden: list[NDArray[np.float32]]
    cache: Any


class GraphCalls(Protocol):
    """Runs the two graphs of one plan in batches.

    Attributes:
        can_force: Whether ``decode`` takes ``forced``.
        largest_batch: Prompts a call of ``decode`` at most, None for any number.
    """

    can_force: bool
    largest_batch: int | None

    def vision(
        self, images: NDArray[np.uint8], padding: NDArray[np.bool_] | None
    ) -> tuple[NDArray[Any], NDArray[np.float32], NDArray[np.int64] | None]:
        """uint8 [n, F, H, W, 3] -> embeddings [n, N_0, D], positions [n, N_0, 2 * copies], merged_into [n, H0 * W0].

        ``padding``, bool [n, H0, W0], where ``Plan.vision_padding``.
        """

    def decode(self, feeds: batching.Feeds, cache: Any, forced: Kept | None) -> Decoded:
        """Run the decoder; ``forced`` holds indices of the span that enters each prune, [B, G, keep]."""

    def rows(self, cache: Any) -> list[tuple[NDArray[np.float32], NDArray[np.float32]]]:
        """Keys and values of every layer, [B, Hkv, S, Dh]."""


@dataclass(frozen=True)
class Prompting:
    """How cases become token ids with one placeholder an image, and pixels; and how answers end.

    ``manifest`` is a bundle's, or what an export would write.
    """

    prepare: Callable[[Case], Request]
    decode: Callable[[Sequence[int]], str]
    manifest: Manifest
    eos: frozenset[int]


class GraphRunner:
    """See ``base.Runner``."""

    def __init__(self, name: str, dtype: str, plan: Plan, prompting: Prompting, calls: GraphCalls, hidden: int) -> None:
        self.name, self.dtype, self.plan = name, dtype, plan
        self.can_force = calls.can_force
        self.calls, self.prompting, self._width = calls, prompting, hidden
        self._seen: OrderedDict[bytes, tuple[Any, ...]] = OrderedDict()

    def observe(
        self,
        cases: Sequence[Case],
        forced: Sequence[Kept] | None = None,
        features: Sequence[Features | None] | None = None,
    ) -> list[Observation]:
        """See ``base.Runner``."""
        found: dict[int, Observation] = {}
        requests = [self.prompting.prepare(case) for case in cases]
        for members in same_images([len(asked.images) for asked in requests], self.calls.largest_batch):
            told = None
            if forced is not None and len(requests[members[0]].images):
                told = {layer: np.stack([forced[i][layer] for i in members]) for layer in forced[members[0]]}
            given = None if features is None else [features[i] or [] for i in members]
            found |= dict(zip(members, self._observe([requests[i] for i in members], told, given), strict=True))
        return [found[index] for index in range(len(cases))]

    def _observe(
        self, requests: Sequence[Request], forced: Kept | None, given: Sequence[Features] | None
    ) -> list[Observation]:
        seen = given or self._features(requests)
        layouts, embeds, merged, padding = self._ready(requests, seen)
        hidden = self.prompting.manifest.decoder.hidden
        feeds = batching.feeds(layouts, embeds, padding=padding)
        told = None if forced is None else span_indices(self.plan, forced)
        out = self.calls.decode(feeds, None, told)
        caches = self.calls.rows(out.cache)
        longest = feeds[graph_io.INPUT_IDS].shape[1]
        result = []
        for row, layout in enumerate(layouts):
            text = layout.input_ids.shape[1]
            cut = longest - text
            tensors = planes(embeds[row], hidden)
            for layer, (key, value) in enumerate(caches):
                if out.hidden:
                    tensors[probe(layer, "in")] = _cut(out.hidden[layer][row], cut)
                for part, values in (("key", key), ("value", value)):
                    tensors[probe(layer, part)] = _cut(values[row].swapaxes(0, 1).reshape(values.shape[2], -1), cut)
            tensors[LOGITS] = _cut(out.logits[row], cut)
            kept = {layer: indices[row] for layer, indices in (forced or out.kept).items()}
            scores = {layer: values[row] for layer, values in out.scores.items()}
            images = requests[row].images
            first = images[0, 0] if len(images) else None
            maps = None if merged is None else merged[row]
            result.append(Observation(tensors, text, kept, scores, maps, seen[row] or None, first))
        return result

    def answer(self, cases: Sequence[Case], longest: int) -> list[Said]:
        """See ``base.Runner``."""
        said: dict[int, Said] = {}
        requests = [self.prompting.prepare(case) for case in cases]
        for members in same_images([len(asked.images) for asked in requests], self.calls.largest_batch):
            said |= dict(zip(members, self._answer([requests[i] for i in members], longest), strict=True))
        return [said[index] for index in range(len(cases))]

    def _answer(self, requests: Sequence[Request], longest: int) -> list[Said]:
        layouts, embeds, _, padding = self._ready(requests, self._features(requests))
        feeds = batching.feeds(layouts, embeds, all_logits=False, padding=padding)
        words: list[list[int]] = [[] for _ in requests]
        out = self.calls.decode(feeds, None, None)
        for step in range(longest):
            tokens = out.logits[:, -1].argmax(-1)
            for line, token in zip(words, tokens.tolist(), strict=True):
                if not line or line[-1] not in self.prompting.eos:
                    line.append(token)
            if step + 1 == longest or all(line[-1] in self.prompting.eos for line in words):
                break
            feeds = batching.next_feeds(layouts, tokens, feeds[graph_io.TEXT_MASK], self._width, self.plan)
            out = self.calls.decode(feeds, out.cache, None)
        eos = self.prompting.eos
        return [Said(tuple(line), self.prompting.decode(line), line[-1] in eos) for line in words]

    def _features(self, requests: Sequence[Request]) -> list[Features]:
        return [[self._prepared(*image) for image in asked.padded_images(self.plan)] for asked in requests]

    def _ready(
        self, requests: Sequence[Request], seen: Sequence[Features]
    ) -> tuple[list[TokenLayout], NDArray[Any], NDArray[np.int64] | None, NDArray[np.bool_] | None]:
        """Of requests alike in images: layouts, embeddings [B, G, span, D], merge maps, which tokens are padding.

        Merge maps are [B, images, H0 * W0], padding is [B, G, span].
        """
        plan, prompt = self.plan, self.prompting.manifest.prompt
        none = np.zeros((0, plan.vision_tokens, 2), np.float32)
        layouts = []
        for asked, rows in zip(requests, seen, strict=True):
            positions = np.stack([features[1] for features in rows]) if rows else none
            ids, kind = list(asked.token_ids), prompt.position_kind
            layouts.append(arrange(ids, prompt.image_token_id, positions, plan.grid, kind, blocks=asked.blocks))
        if not seen[0]:
            return layouts, np.zeros((len(requests), 0, plan.span_tokens, self._width), np.float32), None, None
        embeds = grouped(
            plan, np.concatenate([np.stack([features[0] for features in rows]) for rows in seen]), len(seen)
        )
        maps = [[features[2] for features in rows] for rows in seen]
        void = [[features[3] for features in rows] for rows in seen]
        known = plan.decoder_padding and void[0][0] is not None
        padding = np.array(void).reshape(len(seen), -1, plan.span_tokens) if known else None
        return layouts, np.asarray(embeds), None if maps[0][0] is None else np.array(maps), padding

    def _prepared(self, pixels: NDArray[np.uint8], padding: NDArray[np.bool_]) -> tuple[Any, ...]:
        """What the encoder makes of one image uint8 [F, H, W, 3], of whose units bool [H0, W0] are padding."""
        key = hashlib.sha256(pixels.tobytes() + padding.tobytes()).digest()
        if key not in self._seen:
            units = padding[None]
            embeds, positions, merged = self.calls.vision(pixels[None], units if self.plan.vision_padding else None)
            void = padding_tokens(units, merged, self.plan.vision_tokens)[0] if self.plan.decoder_padding else None
            self._seen[key] = (embeds[0], positions[0], None if merged is None else merged[0], void)
            if len(self._seen) > _REMEMBERED:
                self._seen.popitem(last=False)
        return self._seen[key]


def _cut(values: NDArray[Any], padding: int) -> NDArray[np.float32]:
    """Leave out the last ``padding`` rows."""
    return np.asarray(values[: len(values) - padding], np.float32)


def span_indices(plan: Plan, kept: dict[int, NDArray[np.int64]]) -> dict[int, NDArray[np.int64]]:
    """Turn kept tokens of the encoder [B, G, keep] into indices of the span that enters each prune, as graphs count.

    A token that the prune before had dropped has no index: it becomes the first one, which is wrong and will show.
    """
    result: dict[int, NDArray[np.int64]] = {}
    entering: NDArray[np.int64] | None = None
    for layer, _, _ in plan.chooses:
        wanted = kept[layer]
        if entering is None:
            result[layer] = wanted
        else:
            result[layer] = (wanted[..., :, None] == entering[..., None, :]).argmax(-1)
        entering = wanted
    return result
