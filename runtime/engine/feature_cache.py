"""Visual features of pictures, and KV caches of prompts up to their last picture: LRU, bounded in bytes.

A group of images is what shares a budget: a picture, or all moments of a clip. Its features depend on nothing else, so
a question about kept ones is the question about new ones.
"""

from __future__ import annotations

import hashlib
import json
import threading
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from luvc_export.errors import UsageError
from luvc_export.runtime.prompt.request import Request
from luvc_export.runtime.state import State, VisualFeatures

Kind = Literal["image", "prefix"]
#: What of a prompt was in the cache: nothing, its pictures' features, or all of it up to the last picture.
Source = Literal["none", "image", "prefix"]


@dataclass(frozen=True)
class Prefix:
    """Where a prompt stands after its last picture, and what became of pictures (``Step.kept``, ``merged_into``)."""

    state: State
    kept: dict[int, NDArray[np.int64]]
    merged_into: NDArray[np.int64] | None = None


@dataclass
class CacheCounts:
    """Hits and misses so far, entries and bytes now."""

    hits: dict[Kind, int]
    misses: dict[Kind, int]
    entries: int = 0
    nbytes: int = 0
    evicted: int = 0


class FeatureCache:
    """Visual features and prefixes under one limit. What was not used for longest goes first.

    Args:
        limit: Bytes; 0 keeps nothing.
        groups: Groups of images at most, of all plans together; None for as many as ``limit`` holds.
        prefixes: Keep prefixes too: prompts are then cut after their last picture, hit or miss.

    Raises:
        UsageError: ``groups`` is below 1.
    """

    def __init__(self, limit: int, groups: int | None = None, prefixes: bool = True) -> None:
        if groups is not None and groups < 1:
            raise UsageError("what is remembered is counted from 1 on", where="remember", got=groups)
        self.limit, self._most, self.prefixes = limit, groups, prefixes
        self._entries: OrderedDict[tuple[Kind, bytes], tuple[Any, int]] = OrderedDict()
        self._lock = threading.Lock()
        self.counts = CacheCounts({"image": 0, "prefix": 0}, {"image": 0, "prefix": 0})

    def __len__(self) -> int:
        return len(self._entries)

    def features(self, key: bytes) -> VisualFeatures | None:
        """What a group of images was encoded to."""
        return self._get("image", key)  # type: ignore[no-any-return]

    def keep_features(self, key: bytes, features: VisualFeatures) -> VisualFeatures:
        """Keep arrays that are nobody else's: a back-end may write its output buffers again. Returns them."""
        embeds, positions = np.array(features.embeds), np.array(features.positions)
        merged = None if features.merged_into is None else np.array(features.merged_into)
        padding = None if features.padding is None else np.array(features.padding)
        arrays = [array for array in (embeds, positions, merged, padding) if array is not None]
        own = VisualFeatures(embeds, positions, merged, padding)
        self._keep("image", key, own, sum(array.nbytes for array in arrays))
        return own

    def prefix(self, key: bytes) -> Prefix | None:
        """Where prompts that begin so stand."""
        return self._get("prefix", key)  # type: ignore[no-any-return]

    def keep_prefix(self, key: bytes, prefix: Prefix) -> None:
        """Keep a state; it can be continued more than once (``State``)."""
        self._keep("prefix", key, prefix, prefix.state.cache.nbytes + sum(kept.nbytes for kept in prefix.kept.values()))

    def _get(self, kind: Kind, key: bytes) -> Any:
        with self._lock:
            entry = self._entries.get((kind, key))
            if entry is None:
                self.counts.misses[kind] += 1
                return None
            self._entries.move_to_end((kind, key))
            self.counts.hits[kind] += 1
            return entry[0]

    def _keep(self, kind: Kind, key: bytes, value: Any, nbytes: int) -> None:
        if nbytes > self.limit:
            return
        with self._lock:
            before = self._entries.pop((kind, key), None)
            self.counts.nbytes += nbytes - (before[1] if before else 0)
            self._entries[kind, key] = (value, nbytes)
            while self.counts.nbytes > self.limit or (self._most is not None and len(self._entries) > self._most):
                _, (_, gone) = self._entries.popitem(last=False)
                self.counts.nbytes -= gone
                self.counts.evicted += 1
            self.counts.entries = len(self._entries)


class Keys:
    """Names what one plan makes of pictures and tokens.

    Args:
        plan: Of the bundle, plan, size, back-end and arithmetic (``LoadedPlan.fingerprint``), which are in all keys.
    """

    def __init__(self, plan: bytes) -> None:
        self._base = plan

    def image(
        self,
        pixels: NDArray[np.uint8],
        padding: NDArray[np.bool_] | None = None,
        units: NDArray[np.int32] | None = None,
    ) -> bytes:
        """Key of a group of images, uint8 [n, F, H, W, 3], of padding, bool [n, H0, W0], and of units, int32 [n, K]."""
        void = b"" if padding is None else np.packbits(padding).tobytes()
        chosen = [] if units is None else [np.ascontiguousarray(units).data]
        return self._hash(repr(pixels.shape).encode(), np.ascontiguousarray(pixels).data, void, *chosen)

    def prefix(self, request: Request, tokens: Sequence[int], images: Sequence[bytes]) -> bytes:
        """Key of a prompt's first tokens, with those of all its groups of images, and what is beside the weights."""
        blocks = sorted((at, repr(block)) for at, block in request.blocks.items())
        described = json.dumps([list(tokens), blocks, request.adapter.sha256 if request.adapter else None])
        return self._hash(described.encode(), b"".join(images))

    def _hash(self, *parts: Any) -> bytes:
        digest = hashlib.sha256(self._base)
        for part in parts:
            digest.update(hashlib.sha256(part).digest())
        return digest.digest()
