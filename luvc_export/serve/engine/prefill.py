"""A request -> its first logits: pictures through the encoder, the prompt up to the last picture, then the question.

With a cache, hit or miss run the very same calls after what was found: every group of images is encoded in a call of
its own, and the prompt is always cut in two. So a hit answers as its miss did, to the last bit. Where rows have slots
of a device's caches, keys and values stay there: no prefix is kept.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from time import perf_counter
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from luvc_export.core.token_layout import Mosaic
from luvc_export.runtime.backend import RowPacker
from luvc_export.runtime.generation.rows import Row
from luvc_export.runtime.generation.slot_rows import SlotRows
from luvc_export.runtime.loaded_plan import LoadedPlan
from luvc_export.runtime.prompt.request import Request, SomeImages
from luvc_export.runtime.state import State, VisualFeatures, join_features
from luvc_export.serve.engine.image_cache import ImageCache, Keys, Prefix

Found = Literal["none", "image", "prefix"]


@dataclass(frozen=True)
class Prefilled:
    """The first logits of an answer, and what they took.

    Args:
        logits: Of the prompt's last token, float32 [vocab].
        state: After all of it; None where the caches stay in slots of a device.
        kept: See ``Step``, of the pictures.
        merged_into: See ``VisualFeatures``, of all images.
        found: What the cache had: the pictures as encoded, or all of the prompt up to the last one.
        vision_ms: The vision graph.
        prefix_ms: The decoder up to the last picture.
        question_ms: The decoder over what is left, or over the whole prompt where it is not cut.
        lent: See ``LoadedPlan.lent``; also None where only the prompt up to the last picture is still in the cache.
    """

    logits: NDArray[np.float32]
    state: State | None
    kept: dict[int, NDArray[np.int64]]
    merged_into: NDArray[np.int64] | None
    found: Found
    vision_ms: float
    prefix_ms: float
    question_ms: float
    lent: VisualFeatures | None = None


def prefix_length(request: Request, image_token: int, grid: tuple[int, int]) -> int | None:
    """Tokens up to the last picture and the one after it (a call needs text); None where nothing is left to ask.

    Row ends of a mosaic belong to its picture.
    """
    images = [place for place, token in enumerate(request.token_ids) if token == image_token]
    if not images:
        return None
    last = images[-1]
    for first, block in request.blocks.items():
        if isinstance(block, Mosaic) and first + block.images == len(images):
            last += block.tiles[0] * grid[0]
    return last + 2 if last + 2 < len(request.token_ids) else None


class Prefiller:
    """Prefills prompts for one plan.

    Args:
        loaded: Runs the graphs.
        cache: Where encoded pictures and prefixes are kept.
    """

    def __init__(self, loaded: LoadedPlan, cache: ImageCache) -> None:
        self._loaded, self._cache, self._keys = loaded, cache, Keys(loaded)
        packer = loaded.backend
        #: Only caches that can be taken apart are the host's, and can wait in its memory.
        causal = loaded.bundle.manifest.prompt.prefix is None
        self._keeps_prefixes = isinstance(packer, RowPacker) and packer.packs and causal and not loaded.plan.reads_text

    def __call__(self, request: Request) -> Prefilled:
        """Run what the cache does not have.

        Raises:
            LuvcError: See ``Backend``.
        """
        loaded, images = self._loaded, request.images
        start = perf_counter()
        if not len(images) or not self._cache.limit:
            return self._whole(request, *self._features(request), start)
        groups = self._groups(request)
        keys = [self._keys.image(*one) for one in groups]
        cut = prefix_length(request, loaded.bundle.manifest.prompt.image_token_id, loaded.plan.grid)
        if cut is None or not self._keeps_prefixes:
            return self._whole(request, *self._encoded(groups, keys), start)
        source: Found = "prefix"
        key = self._keys.prefix(request, request.token_ids[:cut], keys)
        prefix, encoded = self._cache.prefix(key), start
        lent = None if prefix is None or not loaded.lends_features else self._held(keys)
        if prefix is None:
            features, source = self._encoded(groups, keys)
            lent = loaded.lent(features)
            encoded = perf_counter()
            first = loaded.run(request.token_ids[:cut], features, blocks=request.blocks, adapter=request.adapter)
            prefix = Prefix(first.state, first.kept, features.merged_into)
            self._cache.keep_prefix(key, prefix)
        between = perf_counter()
        last = loaded.run(request.token_ids[cut:], state=prefix.state)
        vision, first_part, rest = (
            1000 * seconds for seconds in (encoded - start, between - encoded, perf_counter() - between)
        )
        return Prefilled(
            last.logits[0, -1], last.state, prefix.kept, prefix.merged_into, source, vision, first_part, rest, lent
        )

    def into_slots(self, request: Request, rows: Sequence[Row], slots: SlotRows) -> Prefilled:
        """Run a prompt once for each of ``rows``, its answers, which have slots then; none where one does not fit.

        Raises:
            UsageError: It does not fit.
        """
        start = perf_counter()
        features, cached = self._features(request)
        encoded = perf_counter()
        try:
            steps = [slots.prefill([row], [request.passage], features) for row in rows]
        except Exception:
            slots.change(rows, [])
            raise
        kept = {layer: indices[0] for layer, indices in steps[-1].kept.items()}
        spent = 1000 * (encoded - start) if len(request.images) else 0.0, 1000 * (perf_counter() - encoded)
        return Prefilled(steps[0].logits[0], None, kept, features.merged_into, cached, spent[0], 0.0, spent[1])

    def _features(self, request: Request) -> tuple[VisualFeatures, Found]:
        """The encoder's output for all images, from the cache where it has them."""
        if not len(request.images) or not self._cache.limit:
            return self._loaded.encode_images(*request.shown()), "none"
        groups = self._groups(request)
        return self._encoded(groups, [self._keys.image(*one) for one in groups])

    def _groups(self, request: Request) -> list[SomeImages]:
        """Images that are encoded together: one, or those that share a budget."""
        size = self._loaded.plan.sharing.images
        return [request.shown(first, size) for first in range(0, len(request.images), size)]

    def _held(self, keys: list[bytes]) -> VisualFeatures | None:
        """What is in the cache of all groups; None where one is gone."""
        held = [features for key in keys if (features := self._cache.features(key)) is not None]
        return join_features(held) if len(held) == len(keys) else None

    def _encoded(self, groups: list[SomeImages], keys: list[bytes]) -> tuple[VisualFeatures, Found]:
        held = [self._cache.features(key) for key in keys]
        parts = [
            have or self._cache.keep_features(key, self._loaded.encode_images(*one))
            for key, have, one in zip(keys, held, groups, strict=True)
        ]
        return join_features(parts), "none" if None in held else "image"

    def _whole(self, request: Request, features: VisualFeatures, cached: Found, start: float) -> Prefilled:
        encoded = perf_counter()
        step = self._loaded.run(request.token_ids, features, blocks=request.blocks, adapter=request.adapter)
        spent = 1000 * (encoded - start) if len(request.images) else 0.0, 1000 * (perf_counter() - encoded)
        outcome = step.logits[0, -1], step.state, step.kept, features.merged_into, cached
        return Prefilled(*outcome, spent[0], 0.0, spent[1], self._loaded.lent(features))
