"""The schedule ``striped``: where layers work on visual tokens and where they carry them alone, by depth."""

from __future__ import annotations

import re
from dataclasses import dataclass, fields
from fractions import Fraction

from luvc_export.core.plan.llm import LastLayer
from luvc_export.errors import UsageError, did_you_mean

#: What a user types for the schedule.
STRIPED = "striped"
_FLAG = "--stripes"


@dataclass(frozen=True)
class Stripes:
    """All tokens to begin with; then a share of them, on which some layers work; then none.

    A layer that does not work takes keys and values of visual tokens alone (``LlmPlan.kv_only``, ``turns``). The
    defaults are those of the plan ``safe`` (``named_plans``), as they were searched (docs/results/stripes.md).

    Args:
        whole: Share of the depth, at least one layer, in which every token is and every layer works.
        share: Of the tokens that the encoder gives, those that are left after it.
        first: Layers straight after that which work.
        every: Of the layers after those, every ``every``-th works; 0 is none.
        gone: Share of the depth from which on no visual token is left; where ``last_layer`` lets some into the last
            layer, none goes before it.
        works: Share of the depth whose layers all work, where that is more than ``whole`` and ``first`` say.

    Raises:
        UsageError: A share is none, or tokens are gone before the whole layers end.
    """

    whole: Fraction = Fraction(1, 30)
    share: float = 0.48
    first: int = 0
    every: int = 0
    gone: Fraction = Fraction(14, 15)
    works: Fraction = Fraction(2, 5)

    def __post_init__(self) -> None:
        problems = [
            f"{name}={value} is not {expected}"
            for name, value, fits, expected in (
                ("whole", self.whole, 0 <= self.whole <= 1, "in 0 to 1"),
                ("share", self.share, 0 < self.share <= 1, "more than 0 and at most 1"),
                ("first", self.first, self.first >= 0, "0 or more"),
                ("every", self.every, self.every >= 0, "0 or more"),
                ("gone", self.gone, self.whole <= self.gone <= 1, "from whole to 1"),
                ("works", self.works, 0 <= self.works <= 1, "in 0 to 1"),
            )
            if not fits
        ]
        if problems:
            raise UsageError("no such stripes", where=_FLAG, got="; ".join(problems), fix=f"{_FLAG} {Stripes()}")

    def __str__(self) -> str:
        """As ``read`` takes it."""
        return ",".join(f"{each.name}={getattr(self, each.name)}" for each in fields(self))

    def _ends(self, layers: int, last_layer: LastLayer) -> tuple[int, int]:
        """The layer that tokens are pruned before, and the one before which the rest goes."""
        cut = max(1, round(self.whole * layers))
        return cut, max(cut, round(self.gone * layers)) if last_layer == "drop" else layers

    def keep(self, layers: int, tokens: int, last_layer: LastLayer = "drop") -> tuple[int, ...]:
        """Budgets of ``tokens`` for each of ``layers`` layers; none at the last with ``drop``."""
        cut, gone = self._ends(layers, last_layer)
        count = max(1, round(self.share * tokens))
        keep = [tokens if layer < cut else count if layer < gone else 0 for layer in range(layers)]
        return (*keep[:-1], 0) if last_layer == "drop" else tuple(keep)

    def carrying(self, layers: int, last_layer: LastLayer = "drop") -> tuple[int, ...]:
        """Layers that take keys and values of visual tokens alone, ascending; the last layer is not among them."""
        cut, gone = self._ends(layers, last_layer)
        after = range(max(cut + self.first, round(self.works * layers)), min(gone, layers - 1))
        return tuple(n for n in after if not self.every or (n - after.start + 1) % self.every)


def read(text: str | None) -> Stripes | None:
    """Parse ``NAME=VALUE,...`` of ``Stripes``, shares as numbers or fractions; what is left out is the default.

    Raises:
        UsageError: It is no such list.
    """
    if text is None:
        return None
    known: dict[str, type[Fraction | float | int]] = {name: type(value) for name, value in vars(Stripes()).items()}
    values = dict[str, Fraction | float | int]()
    for part in text.split(","):
        name, _, number = (word.strip() for word in part.partition("="))
        if name not in known:
            raise UsageError("stripes have no such part", where=_FLAG, got=name, expected=did_you_mean(name, known))
        if name in values:
            raise UsageError(f"{name} is said twice", where=_FLAG, got=text, fix="say it once")
        whole = r"\d{1,4}" if known[name] is int else r"\d{1,4}/0*[1-9]\d{0,3}|\d{0,4}\.?\d{1,9}"
        if not re.fullmatch(whole, number):
            expected = "a whole number" if known[name] is int else "a share such as 0.42 or 1/8"
            raise UsageError(f"cannot read {name}", where=_FLAG, got=number, expected=expected)
        values[name] = known[name](Fraction(number))
    return Stripes(**values)  # type: ignore[arg-type]
