"""Which kinds of question a step asks: a kind opens once those it builds on are answered, weak kinds are asked more."""

from __future__ import annotations

import numpy as np

from luvc_export.demo.questions import ONE_PICTURE, GlyphQuestion, ask
from luvc_export.demo.scene import Scene

OPEN_AT = 0.6  # ability in every kind it builds on at which a kind opens
NEEDS = {
    "larger": ("digit_of_colour",),
    "sum": ("digit_of_colour",),
    "next": ("colour_of_digit", "digit_of_colour"),
    "right_of": ("where_is",),
    "left_of": ("where_is",),
    "below": ("where_is",),
    "place_then_next": ("right_of", "left_of", "below", "next"),
    "next_then_place": ("right_of", "left_of", "below", "next"),
    "two_pictures": ("colour_of_digit", "digit_of_colour"),
}
MEMORY = 0.9  # of the running accuracy, per step


class Curriculum:
    """Running accuracy per kind, and the questions it leads to."""

    def __init__(self) -> None:
        self.ability: dict[str, float] = {}

    def open(self, kind: str) -> bool:
        """Return whether a kind is asked; once opened it stays open."""
        return kind in self.ability or all(self.ability.get(k, 0.0) >= OPEN_AT for k in NEEDS.get(kind, ()))

    def learn(self, accuracy: dict[str, float]) -> None:
        """Fold one step's accuracy per kind into the running one."""
        for kind, value in accuracy.items():
            self.ability[kind] = MEMORY * self.ability.get(kind, 0.0) + (1 - MEMORY) * value

    def draw(
        self, rng: np.random.Generator, scenes: list[Scene], count: int
    ) -> tuple[list[list[GlyphQuestion]], list[list[GlyphQuestion]]]:
        """Return `count` questions about each picture, and half as many about each of the first pairs of pictures.

        A quarter of the pictures are asked about in pairs, once pairs have opened.
        """
        kinds = [k for k in ONE_PICTURE if self.open(k)]
        weights = np.array([1.1 - self.ability.get(k, 0.0) for k in kinds]) ** 2
        single = []
        for scene in scenes:
            row: list[GlyphQuestion] = []
            while len(row) < count:
                question = ask(kinds[rng.choice(len(kinds), p=weights / weights.sum())], rng, scene, scene)
                if question is not None:
                    row.append(question)
            single.append(row)
        pairs = len(scenes) // 8 if self.open("two_pictures") else 0
        double = [
            [ask("two_pictures", rng, scenes[2 * i], scenes[2 * i + 1]) for _ in range(max(1, count // 2))]
            for i in range(pairs)
        ]
        return single, double
