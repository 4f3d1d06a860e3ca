"""Questions about pages: by key, by place, in two steps and in three."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from luvc_export.demo import questions as bundled
from luvc_export.demo.scene import Scene

from .page import HEADS, KEYS, Entry, Page


@dataclass(frozen=True)
class Look:
    """One lookup on the way to an answer: the mark or entry that a key or step word leads to.

    `hops` is how many lookups must come before it, `sought` the fields by which it is found (none for the first).
    """

    entry: int
    hops: int = 0
    sought: tuple[str, ...] = ()


@dataclass(frozen=True)
class Asked:
    """A question of one kind, its answer, and where its key and step words lead, in their order."""

    kind: str
    text: str
    answer: str
    looks: tuple[Look | None, ...] = ()


def pick(rng: np.random.Generator, items: list) -> Entry:
    """Return one at random."""
    return items[int(rng.integers(len(items)))]


def figure_of_key(rng: np.random.Generator, page: Page) -> Asked | None:
    """Ask for the figure of a line of a list or a form by its key."""
    return single(rng, page, "figure_of_key", lambda e: (f"figure of {KEYS[e.key]}?", str(e.figure)))


def figure_at_line(rng: np.random.Generator, page: Page) -> Asked | None:
    """Ask for the figure of a line of a list or a form by the line's number."""
    return single(rng, page, "figure_at_line", lambda e: (f"figure at line {e.line}?", str(e.figure)))


def key_at_line(rng: np.random.Generator, page: Page) -> Asked | None:
    """Ask for the key of a line by its number."""
    return single(rng, page, "key_at_line", lambda e: (f"key at line {e.line}?", KEYS[e.key]))


def line_of_key(rng: np.random.Generator, page: Page) -> Asked | None:
    """Ask for the number of the line that has a key."""
    return single(rng, page, "line_of_key", lambda e: (f"line of {KEYS[e.key]}?", str(e.line)))


def single(rng: np.random.Generator, page: Page, kind: str, say: Callable[[Entry], tuple[str, str]]) -> Asked | None:
    """Return a question of one lookup about a line that has one figure."""
    chain = list(page.chain().values())
    if not chain:
        return None
    entry = pick(rng, chain)
    return Asked(kind, *say(entry), (Look(page.entries.index(entry)),))


def cell(rng: np.random.Generator, page: Page) -> Asked | None:
    """Ask for the figure of a table by its column and the key or number of its line."""
    inside = [e for e in page.entries if e.head >= 0]
    if not inside:
        return None
    entry = pick(rng, inside)
    where = f"of {KEYS[entry.key]}" if rng.random() < 0.5 else f"at line {entry.line}"
    return Asked("cell", f"{HEADS[entry.head]} {where}?", str(entry.figure), (Look(page.entries.index(entry)),))


def move(page: Page, entry: Entry, step: str) -> Entry | None:
    """Return where a step leads: the line above or below, or the line with the key that the line refers to."""
    if step == "follow":
        return page.chain().get(entry.ref)
    line = entry.line + (1 if step == "below" else -1)
    return next((e for e in page.chain().values() if e.line == line), None)


def path(kind: str, *menus: tuple[str, ...]) -> Callable[[np.random.Generator, Page], Asked | None]:
    """Return the maker of a question that starts at a key, takes one step of each menu, then asks the figure."""

    def make(rng: np.random.Generator, page: Page) -> Asked | None:
        chain = list(page.chain().values())
        for _ in range(40 if chain else 0):
            trail, steps = [pick(rng, chain)], []
            for menu in menus:
                steps.append(menu[int(rng.integers(len(menu)))])
                reached = move(page, trail[-1], steps[-1])
                if reached is None:
                    break
                trail.append(reached)
            if len(trail) == len(menus) + 1 and len(set(trail)) == len(trail):
                text = f"from {KEYS[trail[0].key]} go {' then '.join(steps)}: figure?"
                sought = [(), *(("key",) if s == "follow" else ("line",) for s in steps)]
                looks = tuple(Look(page.entries.index(e), i, sought[i]) for i, e in enumerate(trail))
                return Asked(kind, text, str(trail[-1].figure), looks)
        return None

    return make


PLACE, FOLLOW = ("above", "below"), ("follow",)
PAGE: dict[str, Callable[[np.random.Generator, Page], Asked | None]] = {
    "figure_of_key": figure_of_key,
    "cell": cell,
    "figure_at_line": figure_at_line,
    "key_at_line": key_at_line,
    "line_of_key": line_of_key,
    "above_below": path("above_below", PLACE),
    "follow": path("follow", FOLLOW),
    "place_then_follow": path("place_then_follow", PLACE, FOLLOW),
    "follow_then_place": path("follow_then_place", FOLLOW, PLACE),
}
PAGE_CHAINS = ("above_below", "follow", "place_then_follow", "follow_then_place")
KINDS = {"plain": bundled.KINDS, "textured": bundled.KINDS, "pages": tuple(PAGE)}
SEVERAL_HOPS = {"plain": bundled.SEVERAL_HOPS, "textured": bundled.SEVERAL_HOPS, "pages": PAGE_CHAINS}


def of_picture(question: bundled.GlyphQuestion, scene: Scene, other: Scene | None = None) -> Asked:
    """Return a question of the bundled task with its lookups; marks of a second picture count on from the first's."""
    marks = [*scene.marks, *(other.marks if other else ())]
    words = [w.strip("?:,") for w in question.text.split()]
    steps = [w for w in words if w == "next" or w in bundled.MOVES]
    looks: list[Look | None] = []
    for i, mark in enumerate(question.trail):
        hops = i if question.kind in bundled.DEPENDENT else 0
        by_digit = question.kind in bundled.CHAINS and i > 0 and steps[i - 1] == "next"
        sought = () if hops == 0 else ("digit",) if by_digit else ("row", "column")
        looks.append(None if mark is None else Look(index(marks, mark, scene, i, question.kind), hops, sought))
    return Asked(question.kind, question.text, question.answer, tuple(looks))


def index(marks: list, mark: object, scene: Scene, place: int, kind: str) -> int:
    """Return which of the marks is meant; the second of `two_pictures` is one of the second picture's."""
    first = len(scene.marks) if kind == "two_pictures" and place == 1 else 0
    return first + marks[first:].index(mark)
