"""Questions about the pictures, and the held-out cases made of them.

`trail` is what a reader passes on the way: the digit each key or step word of the prompt (a colour, a digit, `right`,
`next`, ...) leads to, in the order of the words. Training uses it as an intermediate label; evaluation never sees it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from luvc_export.demo.scene import NAMES, Mark, Scene, generator, render
from luvc_export.errors import UsageError, did_you_mean

NUMBER = ("one", "two", "three", "four")  # rows and columns are counted from one
MOVES = {"right": (0, 1), "left": (0, -1), "below": (1, 0)}


@dataclass(frozen=True)
class GlyphQuestion:
    """A question of one kind about one or two pictures, its answer, and the digits its words lead to.

    `among` is every digit that a question about how many counts.
    """

    kind: str
    text: str
    answer: str
    trail: tuple[Mark | None, ...] = ()
    among: tuple[Mark, ...] = ()


@dataclass(frozen=True)
class GlyphCase:
    """What an evaluation asks: uint8 pictures [H, W, 3], the user's text alone, the answer, the kind, the cluster."""

    images: tuple[NDArray[np.uint8], ...]
    prompt: str
    answer: str
    kind: str
    picture: int


T = TypeVar("T")


def pick(rng: np.random.Generator, items: Sequence[T]) -> T:
    """Return one item at random."""
    return items[int(rng.integers(len(items)))]


def move(scene: Scene, mark: Mark, step: str) -> Mark | None:
    """Return the digit a step leads to: its neighbour, or for `next` the digit one larger (0 follows 9)."""
    if step == "next":
        return next((m for m in scene.marks if m.digit == (mark.digit + 1) % 10), None)
    down, across = MOVES[step]
    return scene.at(mark.row + down, mark.column + across)


def colour_of(rng: np.random.Generator, scene: Scene) -> GlyphQuestion:
    """Ask for the colour of a digit."""
    mark = pick(rng, list(scene.marks))
    return GlyphQuestion("colour_of_digit", f"colour of {mark.digit}?", mark.colour, (mark,))


def digit_of(rng: np.random.Generator, scene: Scene) -> GlyphQuestion:
    """Ask for the digit of a colour that only one digit has."""
    mark = pick(rng, scene.unique())
    return GlyphQuestion("digit_of_colour", f"digit of {mark.colour}?", str(mark.digit), (mark,))


def at_place(rng: np.random.Generator, scene: Scene) -> GlyphQuestion:
    """Ask what is in a cell: colour and digit."""
    mark = pick(rng, list(scene.marks))
    text = f"what is at row {NUMBER[mark.row]} column {NUMBER[mark.column]}?"
    return GlyphQuestion("at_place", text, f"{mark.colour} {mark.digit}", (None, mark))


def where_is(rng: np.random.Generator, scene: Scene) -> GlyphQuestion:
    """Ask for the row and column of a digit."""
    mark = pick(rng, list(scene.marks))
    answer = f"row {NUMBER[mark.row]} column {NUMBER[mark.column]}"
    return GlyphQuestion("where_is", f"where is {mark.digit}?", answer, (mark,))


def count(rng: np.random.Generator, scene: Scene) -> GlyphQuestion:
    """Ask how many digits have a colour; every number the picture offers, from 0, is equally likely the answer."""
    numbers: dict[int, list[str]] = {}
    for name in NAMES:
        numbers.setdefault(sum(m.colour == name for m in scene.marks), []).append(name)
    number = int(pick(rng, sorted(numbers)))
    name = pick(rng, numbers[number])
    among = tuple(m for m in scene.marks if m.colour == name)
    return GlyphQuestion("count", f"how many {name}?", str(number), (None,), among)


def path(kind: str, *menus: tuple[str, ...]) -> Callable[[np.random.Generator, Scene], GlyphQuestion | None]:
    """Return the maker of a question that starts at a colour and takes one step of each menu, then asks the colour."""

    def make(rng: np.random.Generator, scene: Scene) -> GlyphQuestion | None:
        for _ in range(40):
            trail, steps = [pick(rng, scene.unique())], []
            for menu in menus:
                steps.append(pick(rng, menu))
                reached = move(scene, trail[-1], steps[-1])
                if reached is None:
                    break
                trail.append(reached)
            if len(trail) == len(menus) + 1 and len(set(trail)) == len(trail):
                text = f"from {trail[0].colour} go {' then '.join(steps)}: colour?"
                return GlyphQuestion(kind, text, trail[-1].colour, tuple(trail))
        return None

    return make


def larger(rng: np.random.Generator, scene: Scene) -> GlyphQuestion:
    """Ask which of two colours has the larger digit."""
    a, b = rng.permutation(len(scene.unique()))[:2]
    a, b = scene.unique()[a], scene.unique()[b]
    answer = max(a, b, key=lambda m: m.digit).colour
    return GlyphQuestion("larger", f"larger of {a.colour} and {b.colour}?", answer, (a, b))


def total(rng: np.random.Generator, scene: Scene) -> GlyphQuestion:
    """Ask for the sum of the digits of two colours."""
    a, b = rng.permutation(len(scene.unique()))[:2]
    a, b = scene.unique()[a], scene.unique()[b]
    return GlyphQuestion("sum", f"sum of {a.colour} and {b.colour}?", str(a.digit + b.digit), (a, b))


def two_pictures(rng: np.random.Generator, scene: Scene, other: Scene) -> GlyphQuestion:
    """Ask one question of each of two pictures, in one sentence."""
    a, b = pick(rng, list(scene.marks)), pick(rng, other.unique())
    text = f"first colour of {a.digit}, second digit of {b.colour}?"
    return GlyphQuestion("two_pictures", text, f"{a.colour} {b.digit}", (a, b))


SPACE, NEXT = tuple(MOVES), ("next",)
ONE_PICTURE: dict[str, Callable[[np.random.Generator, Scene], GlyphQuestion | None]] = {
    "colour_of_digit": colour_of,
    "digit_of_colour": digit_of,
    "at_place": at_place,
    "where_is": where_is,
    "count": count,
    "right_of": path("right_of", ("right",)),
    "left_of": path("left_of", ("left",)),
    "below": path("below", ("below",)),
    "next": path("next", NEXT),
    "place_then_next": path("place_then_next", SPACE, NEXT),
    "next_then_place": path("next_then_place", NEXT, SPACE),
    "larger": larger,
    "sum": total,
}
KINDS = (*ONE_PICTURE, "two_pictures")
CHAINS = ("right_of", "left_of", "below", "next", "place_then_next", "next_then_place")  # one lookup needs another
SEVERAL_HOPS = (*CHAINS, "larger", "sum", "two_pictures")
DEPENDENT = ("at_place", *CHAINS)  # a later key word can be looked up only with what the words before it gave


def ask(kind: str, rng: np.random.Generator, scene: Scene, other: Scene) -> GlyphQuestion | None:
    """Return a question of a kind about a picture (and a second one), or None where the picture allows none."""
    if kind == "two_pictures":
        return two_pictures(rng, scene, other)
    return ONE_PICTURE[kind](rng, scene)


def cases(split: str, count: int, seed: int = 0, kinds: tuple[str, ...] | None = None) -> Iterator[GlyphCase]:
    """Yield `count` cases of a split (train, heldout, harder): every picture is asked one question of each kind.

    The question of a kind about a picture depends on split, seed, picture and kind alone, not on the other kinds.

    Raises:
        UsageError: There is no split or kind of that name.
    """
    for kind in kinds or ():
        if kind not in KINDS:
            raise UsageError("unknown kind", where="glyph task", got=repr(kind), expected=did_you_mean(kind, KINDS))
    yielded, picture = 0, 0
    while yielded < count:
        image, scene = render(generator(split, seed, picture), split)
        second, other = render(generator(split, seed, picture, 1), split)
        for kind in kinds or KINDS:
            question = ask(kind, generator(split, seed, picture, 2, KINDS.index(kind)), scene, other)
            if question is not None and yielded < count:
                yielded += 1
                images = (image, second) if kind == "two_pictures" else (image,)
                yield GlyphCase(images, question.text, question.answer, kind, picture)
        picture += 1
