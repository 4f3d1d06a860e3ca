"""Pages and pictures of digits, what stands on them, and queries that some of them answer.

A fact is a word and a figure of a line ("apple 47"), or a digit and its colour ("red 7"). A query is one fact or
several of one page; a page answers it that shows them all.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from glyph_deep.data import page, pictures
from glyph_deep.data.cases import SIZES
from glyph_deep.data.splits import generator
from numpy.typing import NDArray

GROUNDS = ("pages", "textured")
#: How many facts queries have that are asked, by ground.
FACTS = {"pages": (6,), "textured": (1, 2)}
#: The same where pages have one vector (of `textured` alone): of one fact it finds too much, 0.99 on the search split.
OF_ONE = (2, 3)
_QUERY = 1 << 23  # keys of the streams of queries
__all__ = ["FACTS", "GROUNDS", "OF_ONE", "SIZES", "Query", "Sheet", "asked", "queries", "relevant", "sheet"]


@dataclass(frozen=True)
class Sheet:
    """What a page shows: its facts, and of each the units, row by row, that its figure or digit covers."""

    facts: tuple[str, ...]
    units: tuple[tuple[int, ...], ...]


@dataclass(frozen=True)
class Query:
    """What is searched for, and the page that it was drawn from."""

    facts: tuple[str, ...]
    page: int

    @property
    def text(self) -> str:
        """As it is asked."""
        return " ".join(self.facts)


def sheet(split: str, ground: str, seed: int, number: int) -> tuple[NDArray[np.uint8], Sheet]:
    """A page, uint8 [H, W, 3], of a split (train, search, heldout) and a ground, and what it shows."""
    rng = generator(split, ground, _QUERY, seed, number)
    if ground == "pages":
        pixels, shown, _ = page.render(rng, split, "page")
        names = [f"{page.KEYS[entry.key]} {entry.figure}" for entry in shown.entries]
        places = [(entry.unit[0] * shown.columns + entry.unit[1],) for entry in shown.entries]
    else:
        pixels, scene = pictures.render(rng, split, ground)
        names = [f"{mark.colour} {mark.digit}" for mark in scene.marks]
        places = [tuple(np.flatnonzero(scene.owner == at).tolist()) for at in range(len(names))]
    facts = dict(zip(names, places, strict=True))
    return pixels, Sheet(tuple(facts), tuple(facts.values()))


def asked(rng: np.random.Generator, facts: Sequence[str], count: int, number: int) -> Query:
    """A query of ``count`` of a page's facts."""
    return Query(tuple(facts[i] for i in rng.permutation(len(facts))[:count]), number)


def queries(split: str, ground: str, seed: int, sheets: Sequence[Sheet], count: int) -> list[Query]:
    """A query of ``count`` facts of every page."""
    streams = (generator(split, ground, _QUERY, seed, number, count) for number in range(len(sheets)))
    return [asked(rng, one.facts, count, at) for at, (rng, one) in enumerate(zip(streams, sheets, strict=True))]


def relevant(asked_for: Sequence[Query], sheets: Sequence[Sheet]) -> NDArray[np.bool_]:
    """Bool [queries, pages]: which pages show all facts of a query."""
    shown = [frozenset(one.facts) for one in sheets]
    return np.array([[facts.issuperset(query.facts) for facts in shown] for query in asked_for])
