"""Splits: every layout (what stands where) belongs to one split by its hash, and every split has its own seeds."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import TypeVar

import numpy as np

from luvc_export.errors import UsageError, did_you_mean

GROUNDS = ("plain", "textured", "pages")
SHARES = {"train": range(2, 8), "search": range(1, 2), "heldout": range(1)}  # eighths of all layouts
STREAM = 77  # keeps these generators apart from those of the bundled task, whose keys begin with 1, 2 or 3

T = TypeVar("T")


def generator(split: str, ground: str, *key: int) -> np.random.Generator:
    """Return the generator of a split (train, search, heldout), a ground (plain, textured, pages) and an integer key.

    Raises:
        UsageError: There is no split or ground of that name.
    """
    for got, known, what in ((split, tuple(SHARES), "split"), (ground, GROUNDS, "ground")):
        if got not in known:
            raise UsageError(f"unknown {what}", where="glyph-deep", got=repr(got), expected=did_you_mean(got, known))
    return np.random.default_rng([STREAM, list(SHARES).index(split), GROUNDS.index(ground), *key])


def belongs(layout: tuple, split: str) -> bool:
    """Return whether a layout, a nested tuple of numbers and strings, is one of the split's."""
    return hashlib.sha256(repr(layout).encode()).digest()[0] % 8 in SHARES[split]


def draw_until(make: Callable[[], T], layout: Callable[[T], tuple], split: str) -> T:
    """Return the first thing drawn whose layout is one of the split's."""
    while not belongs(layout(drawn := make()), split):
        pass
    return drawn
