"""What a prune ranks visual tokens by: a score's name, its settings, and what others must know of it."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from luvc_export.core.plan import reading
from luvc_export.errors import PlanError

Setting = bool | int | float | str

#: Settings of a method; letters of a text among them.
_MOST_SETTINGS, _LONGEST = 64, 4096


@dataclass(frozen=True)
class Method(reading.Part):
    """How the tokens that a prune keeps are chosen.

    ``luvc_export.export.compression.scores.method`` makes one: it checks settings against those that the score declares
    and copies the score's facts, so that what runs a plan needs no list of scores. A plan file written by hand may
    leave facts out: until an export writes them, the cautious values hold.

    Args:
        name: Name of the score; empty in plans that are for budgets and costs alone, which no graph is made of.
        settings: Names and values, sorted by name.
        reads_text: What is kept of a picture depends on the question.
        reads_spectrum: It filters the span (``LlmPlan.axis`` and ``spectrum``).
        needs_positions: It reads where tokens stand on the grid, so it chooses once, from all of it.
    """

    name: str = ""
    settings: tuple[tuple[str, Setting], ...] = ()
    reads_text: bool = True
    reads_spectrum: bool = False
    needs_positions: bool = False

    def __getitem__(self, setting: str) -> Any:
        """Value of a setting.

        Raises:
            KeyError: The method has none of that name.
        """
        return dict(self.settings)[setting]

    def problems(self) -> list[str]:
        """What is wrong, one line each; whether the score knows these settings is the score's to say."""
        lines = reading.wrong_choices(self)
        if not isinstance(self.name, str):
            lines.append(f"name: got {self.name!r}, expected a score's name")
        if [name for name, _ in self.settings] != sorted({name for name, _ in self.settings}):
            lines.append("settings: expected names in order, each once")
        for name, value in self.settings:
            if not isinstance(value, Setting) or (isinstance(value, float) and not math.isfinite(value)):
                lines.append(f"settings.{name}: got {value!r}, expected a number, a word, true or false")
        return lines

    def to_json(self) -> dict[str, Any]:
        """Plain data: facts beside ``settings`` as an object."""
        facts = {name: getattr(self, name) for name in ("reads_text", "reads_spectrum", "needs_positions")}
        return {"name": self.name, "settings": dict(self.settings), **facts}

    @classmethod
    def from_json(cls, data: object, where: str) -> Method:
        """Build from ``to_json`` data; only ``name`` must be there.

        Raises:
            PlanError: Fields are unknown, or of another type.
        """
        values = reading.fields_of(cls, data, where)
        settings = values.get("settings", {})
        if not isinstance(settings, dict) or len(settings) > _MOST_SETTINGS:
            raise PlanError("a method's settings are a JSON object", where=f"{where}.settings", got=repr(settings)[:40])
        for name, value in settings.items():
            if not isinstance(value, Setting) or (isinstance(value, str) and len(value) > _LONGEST):
                raise PlanError("no value of a setting", where=f"{where}.settings.{name}", got=repr(value)[:40])
            if isinstance(value, int | float) and not abs(value) <= reading.MOST:
                raise PlanError("the number is too large", where=f"{where}.settings.{name}", got=repr(value)[:40])
        return cls(**{**values, "settings": tuple(sorted(settings.items()))})
