"""Questions about the films, none of which one frame answers."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from .films import Film, seeded


@dataclass(frozen=True)
class Question:
    """A question of one kind, and its answer: a colour, or how many."""

    kind: str
    text: str
    answer: str


def questions(film: Film) -> list[Question]:
    """Every question that can be asked about a film: eight."""
    first, last = film.actors[0], film.actors[-1]
    asked = [
        Question("came", "which came last?", last.colour),
        Question("came", "which came first?", first.colour),
    ]
    for actor in film.actors:
        if actor.direction in ("right", "left"):
            asked.append(Question("moved", f"which moved {actor.direction}?", actor.colour))
    for actor in film.actors:
        asked.append(Question("changed", f"how many times did {actor.colour} change?", str(actor.changes)))
    return asked


def reported(film: Film, rng: np.random.Generator) -> list[Question]:
    """The three questions of an evaluation: which came last, which moved right, how many times did one change."""
    asked = questions(film)
    right = next(q for q in asked if q.text == "which moved right?")
    changed = [q for q in asked if q.kind == "changed"]
    return [asked[0], right, changed[int(rng.integers(len(changed)))]]


def cases(split: str, count: int, seed: int = 0) -> Iterator[tuple[int, Film, Question]]:
    """`count` questions in the order of their films, three each, with the film's number."""
    for number in range(-(-count // 3)):
        film = seeded(split, seed, number)
        for question in reported(film, np.random.default_rng([seed, number]))[: count - 3 * number]:
            yield number, film, question
