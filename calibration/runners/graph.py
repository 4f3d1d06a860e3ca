"""A runner made of a vision graph and a decoder graph, whatever runs them: torch modules, ONNX Runtime, an engine."""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from luvc_export.bundle.manifest import Manifest
from luvc_export.calibration.cases import Case
from luvc_export.calibration.runners.base import (
    LOGITS,
    VECTORS,
    Encoded,
    Features,
    Forced,
    Kept,
    Observation,
    Said,
    planes,
    probe,
    same_images,
)
from luvc_export.core import graph_io
from luvc_export.core.plan import Plan
from luvc_export.runtime import batching
from luvc_export.runtime.engine.answers import answer_prompts
from luvc_export.runtime.engine.embed import shown_cells, shown_rows
from luvc_export.runtime.generation.sequence import GreedyTokens
from luvc_export.runtime.graphs import Graphs
from luvc_export.runtime.model import Backend, Capabilities, TokensPrompt
from luvc_export.runtime.prompt.request import Request
from luvc_export.runtime.state import VisualFeatures, join_features

#: Pictures whose visual embeddings are remembered: questions about one picture come together.
_REMEMBERED = 64


#: Embeddings [n, N_0, D], positions [n, N_0, 2 * copies], merged_into [n, H0 * W0] or None where nothing merges.
Visual = tuple[NDArray[Any], NDArray[np.float32], NDArray[np.int64] | None]


@dataclass(frozen=True)
class Decoded:
    """What one decoder call gives for a batch.

    Attributes:
        logits: [B, n, vocab], or vectors [B, n, D] where nothing is decoded.
        kept: Per prune [B, G, keep].
        scores: Per prune how to compute them [B, G, N]; empty where the calls cannot tell.
        hidden: Entering each layer [B, S, D]; empty where the calls cannot tell.
        cache: For the next call.
    """

    logits: NDArray[np.float32]
    kept: Kept
    scores: dict[int, Callable[[], NDArray[np.float32]]]
    hidden: list[NDArray[np.float32]]
    cache: Any


class ObservedCalls(Protocol):
    """Runs the two graphs of one plan in batches, and shows what happens inside.

    Attributes:
        can_force: Whether ``decode`` takes ``forced``.
        largest_batch: Prompts a call of ``decode`` at most, None for any number.
    """

    can_force: bool
    largest_batch: int | None

    def vision(self, images: NDArray[np.uint8], beside: NDArray[Any] | None) -> Visual:
        """Encode uint8 [n, F, H, W, 3]; ``beside``: see ``Backend.vision``."""

    def decode(self, feeds: batching.Feeds, cache: Any, forced: Kept | None) -> Decoded:
        """Run the decoder; ``forced`` holds indices of the span that enters each prune, [B, G, keep]."""

    def states(self, cache: Any) -> list[NDArray[Any]]:
        """States in graph order (``DecoderShape.kept``), floats as float32."""


class _PlainCalls(Backend):
    """``ObservedCalls`` as a back-end."""

    def __init__(self, calls: ObservedCalls) -> None:
        self._calls = calls
        self.capabilities = Capabilities(rows=calls.largest_batch)

    def vision(self, images: NDArray[np.uint8], beside: NDArray[Any] | None = None) -> dict[str, NDArray[Any]]:
        embeds, positions, merged = self._calls.vision(images, beside)
        maps = {} if merged is None else {graph_io.MERGED_INTO: merged}
        return {graph_io.VISUAL_EMBEDS: embeds, graph_io.VISUAL_POSITIONS: positions, **maps}

    def decode(self, feeds: Mapping[str, NDArray[Any]], cache: Any) -> tuple[dict[str, NDArray[Any]], Any]:
        out = self._calls.decode(dict(feeds), cache, None)
        return {graph_io.LOGITS: out.logits}, out.cache


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

    def __init__(self, name: str, dtype: str, plan: Plan, prompting: Prompting, calls: ObservedCalls) -> None:
        self.name, self.dtype, self.plan = name, dtype, plan
        self.can_force = calls.can_force
        self.calls, self.prompting = calls, prompting
        self._graphs = Graphs(prompting.manifest, plan, _PlainCalls(calls))
        self._encoded: OrderedDict[bytes, VisualFeatures] = OrderedDict()

    def observe(self, cases: Sequence[Case], forced: Forced = None, features: Encoded = None) -> list[Observation]:
        """See ``base.Runner``."""
        observed: dict[int, Observation] = {}
        requests = [self.prompting.prepare(case) for case in cases]
        for members in same_images([len(request.images) for request in requests], self.calls.largest_batch):
            kept = None
            if forced is not None and len(requests[members[0]].images):
                kept = {layer: np.stack([forced[i][layer] for i in members]) for layer in forced[members[0]]}
            others = None if features is None else [features[i] or [] for i in members]
            observed |= dict(zip(members, self._observe([requests[i] for i in members], kept, others), strict=True))
        return [observed[index] for index in range(len(cases))]

    def _observe(
        self, requests: Sequence[Request], forced: Kept | None, others: Sequence[Features] | None
    ) -> list[Observation]:
        features = others or self._features(requests)
        prompts = [TokensPrompt(request.token_ids, blocks=request.blocks) for request in requests]
        encoded = [image for row in features for image in row]
        layouts, feeds = self._graphs.feeds(prompts, join_features(encoded) if encoded else None, all_logits=True)
        embeds = np.asarray(feeds[graph_io.VISUAL_EMBEDS])
        hidden = self.prompting.manifest.decoder.hidden
        out = self.calls.decode(feeds, None, None if forced is None else span_indices(self.plan, forced))
        decodes = self.prompting.manifest.does.decodes
        kept_states = []
        if decodes:
            kept_states = list(zip(self.prompting.manifest.decoder.kept, self.calls.states(out.cache), strict=True))
        longest = feeds[graph_io.INPUT_IDS].shape[1]
        ranked = {layer: read() for layer, read in out.scores.items()}
        result = []
        for row, layout in enumerate(layouts):
            text = layout.input_ids.shape[1]
            cut = longest - text
            tensors = planes(embeds[row], hidden)
            for layer in range(self.prompting.manifest.decoder.layers):  # in the order they are computed
                if layer < len(out.hidden):
                    tensors[probe(layer, "in")] = _cut(out.hidden[layer][row], cut)
                for state, values in kept_states:
                    if state.layer == layer and state.in_cache:
                        flat = values[row].swapaxes(0, 1).reshape(values.shape[2], -1)
                        tensors[probe(layer, state.name)] = _cut(flat, cut)
            rows = _cut(out.logits[row], cut)
            how = self.prompting.manifest.embedding
            tensors |= {LOGITS: rows} if how is None else {VECTORS: rows if how.pooling == "every" else rows[-1:]}
            kept = {layer: indices[row] for layer, indices in (forced or out.kept).items()}
            scores = {layer: values[row] for layer, values in ranked.items()}
            images = requests[row].images
            first = images[0, 0] if len(images) else None
            merged = join_features(features[row]).merged_into if features[row] else None
            result.append(Observation(tensors, text, kept, scores, merged, features[row] or None, first))
        return result

    def vectors(self, cases: Sequence[Case]) -> list[NDArray[np.float32]]:
        """Where nothing is decoded, vectors float32 [n, D] of each case as a session has them, none of padding alone.

        A case at a time: of texts padded to one length, those behind the last token would be another's.
        """
        how, vectors = self.prompting.manifest.embedding, list[NDArray[np.float32]]()
        assert how is not None
        for case in cases:
            rows = self.observe([case])[0].tensors[VECTORS]
            cells = shown_cells(how, self.plan, self.prompting.prepare(case))
            vectors.append(rows if cells is None else shown_rows(rows, cells.reshape(-1)))
        return vectors

    def answer(self, cases: Sequence[Case], longest: int) -> list[Said]:
        """See ``base.Runner``."""
        answers: dict[int, Said] = {}
        requests = [self.prompting.prepare(case) for case in cases]
        for members in same_images([len(request.images) for request in requests], self.calls.largest_batch):
            answers |= dict(zip(members, self._answer([requests[i] for i in members], longest), strict=True))
        return [answers[index] for index in range(len(cases))]

    def _answer(self, requests: Sequence[Request], longest: int) -> list[Said]:
        eos = self.prompting.eos
        choosers = [GreedyTokens(longest, eos) for _ in requests]
        features = [join_features(row) if row else None for row in self._features(requests)]
        prompts = [TokensPrompt(one.token_ids, own, one.blocks) for one, own in zip(requests, features, strict=True)]
        answer_prompts(self._graphs, prompts, choosers)
        return [Said(tuple(one.ids), self.prompting.decode(one.ids), one.ids[-1] in eos) for one in choosers]

    def _features(self, requests: Sequence[Request]) -> list[Features]:
        return [[self._image(request, index) for index in range(len(request.images))] for request in requests]

    def _image(self, request: Request, index: int) -> VisualFeatures:
        """What the encoder makes of one image; of a clip whose units merge along time, beside its others."""
        time = self._graphs.plan.encoder.time
        size = 1 if time is None else time.frames
        image = request.shown(index // size * size, size)
        key = hashlib.sha256(
            image.pixels.tobytes() + (b"" if image.padding is None else image.padding.tobytes())
        ).digest()
        if key not in self._encoded:
            self._encoded[key] = self._graphs.encode_images(*image)
            if len(self._encoded) > _REMEMBERED:
                self._encoded.popitem(last=False)
        return self._encoded[key] if size == 1 else self._encoded[key].some([index % size])


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
