"""Which kinds of question a step asks: a kind opens once those it builds on are answered, weak kinds are asked more."""

from __future__ import annotations

import numpy as np

from glyph_deep.data.questions import PAGE
from luvc_export.demo.questions import ONE_PICTURE

OPEN_AT = 0.5  # ability in every kind it builds on at which a kind opens
NEEDS = {
    "above_below": ("figure_of_key", "figure_at_line", "line_of_key"),
    "follow": ("figure_of_key",),
    "place_then_follow": ("above_below", "follow"),
    "follow_then_place": ("above_below", "follow"),
}
MEMORY = 0.95  # of the running accuracy, per step


class Curriculum:
    """Running accuracy per kind; the bundled task's kinds are known from the start."""

    def __init__(self) -> None:
        self.ability: dict[str, float] = dict.fromkeys(ONE_PICTURE, 0.9)

    def open(self, kind: str) -> bool:
        """Return whether a kind is asked; once opened it stays open."""
        return kind in self.ability or all(self.ability.get(k, 0.0) >= OPEN_AT for k in NEEDS.get(kind, ()))

    def learn(self, accuracy: dict[str, float]) -> None:
        """Fold one step's accuracy per kind into the running one."""
        for kind, value in accuracy.items():
            self.ability[kind] = MEMORY * self.ability.get(kind, 0.0) + (1 - MEMORY) * value

    def weights(self, page: bool) -> tuple[list[str], np.ndarray]:
        """Return the open kinds about a page or a picture, and how often each is asked."""
        kinds = [k for k in (PAGE if page else ONE_PICTURE) if self.open(k)]
        weights = np.array([1.1 - self.ability.get(k, 0.0) for k in kinds]) ** 2
        return kinds, weights / weights.sum()
