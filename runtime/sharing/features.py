"""Visual features that later questions use again: a window that slides over clips encodes the newest one alone.

A group of images is what shares a budget: a picture, or all moments of a clip. Its features depend on nothing else, so
a question about kept ones is the question about new ones.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import replace

import numpy as np

from luvc_export.errors import UsageError
from luvc_export.runtime.prompt.request import Request, SomeImages
from luvc_export.runtime.state import VisualFeatures, join_features


class FeatureStore:
    """The features of the last groups of images that were asked about.

    Args:
        groups: How many, of all plans together.

    Raises:
        UsageError: ``groups`` is below 1.
    """

    def __init__(self, groups: int) -> None:
        if groups < 1:
            raise UsageError("what is remembered is counted from 1 on", where="remember", got=groups)
        self._most, self._held = groups, OrderedDict[bytes, VisualFeatures]()

    def __len__(self) -> int:
        return len(self._held)

    def of(self, plan: str, request: Request, size: int, encode: Callable[..., VisualFeatures]) -> VisualFeatures:
        """Features of a request's images, those that are held from here.

        Args:
            plan: Name of the plan whose encoder it is.
            request: Images, a whole number of groups.
            size: Images of a group.
            encode: ``Graphs.encode_images``, called for each group that is not held.
        """
        parts = []
        for first in range(0, len(request.images), size):
            some = request.shown(first, size)
            key = _key(plan, some)
            features = self._held.pop(key, None)
            if features is None:
                seen = encode(*some)
                features = replace(
                    seen, embeds=np.array(seen.embeds), positions=np.array(seen.positions)
                )  # theirs to reuse
            self._held[key] = features
            parts.append(features)
        while len(self._held) > self._most:
            self._held.popitem(last=False)
        return join_features(parts)


def _key(plan: str, images: SomeImages) -> bytes:
    digest = hashlib.sha256(plan.encode())
    for part in images:
        if part is not None:
            digest.update(repr((part.shape, part.dtype.str)).encode() + np.ascontiguousarray(part).tobytes())
    return digest.digest()
