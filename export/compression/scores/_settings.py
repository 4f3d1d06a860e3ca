"""Settings that a score declares: their types, ranges and defaults, checked before anything is traced."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from luvc_export.core.plan import Method
from luvc_export.errors import PlanError, did_you_mean

V = TypeVar("V", bool, int, float, str)


@dataclass(frozen=True)
class ScoreSetting(Generic[V]):
    """A setting of a score.

    Args:
        default: Its value where nothing is said; its type is the setting's. None with ``kind`` where it must be said.
        help: A sentence for ``--help-score``.
        above: Numbers are larger than this.
        least: Numbers are at least this.
        most: Numbers are at most this.
        choices: Words it may be.
        pattern: Regular expression that a text matches whole, and what that is called in errors.
        kind: Type of a setting without a default.
    """

    default: V | None
    help: str
    above: float | None = None
    least: float | None = None
    most: float | None = None
    choices: tuple[str, ...] = ()
    pattern: tuple[str, str] | None = None
    kind: type[V] | None = None

    @property
    def type(self) -> type:
        """``bool``, ``int``, ``float`` or ``str``."""
        return self.kind or type(self.default)

    @property
    def range(self) -> str:
        """What it may be, in words."""
        if self.choices:
            return ", ".join(self.choices)
        if self.pattern:
            return self.pattern[1]
        if self.type is bool:
            return "true or false"
        words: list[str] = [
            f"{word} {bound:g}" for word, bound in (("above", self.above), ("from", self.least)) if bound is not None
        ]
        words += [f"to {self.most:g}"] if self.most is not None else []
        kind = {int: "a whole number", float: "a number", str: "a text"}[self.type]
        return " ".join([kind, *words] if self.type is int else words) or kind

    def parse(self, text: str) -> bool | int | float | str:
        """The value that ``NAME=text`` means.

        Raises:
            ValueError: It means none.
        """
        if self.type is bool:
            return {"true": True, "false": False}[text.lower()] if text.lower() in ("true", "false") else _no(text)
        if self.type is int:
            return int(text)
        return float(text) if self.type is float else text

    def value(self, value: object) -> bool | int | float | str | None:
        """``value`` as this setting holds it; None where it may not be."""
        if self.type is float and isinstance(value, int) and not isinstance(value, bool):
            value = float(value)
        if self.type is int and isinstance(value, float) and value.is_integer():
            value = int(value)
        if type(value) is not self.type or (self.choices and value not in self.choices):
            return None
        if isinstance(value, str):
            return value if self.pattern is None or re.fullmatch(self.pattern[0], value) else None
        if not isinstance(value, int | float) or not math.isfinite(value):
            return None
        inside = (self.above is None or value > self.above) and (self.least is None or value >= self.least)
        return value if inside and (self.most is None or value <= self.most) else None


def _no(text: str) -> bool:
    raise ValueError(text)


def parsed_values(score: str, declared: Mapping[str, ScoreSetting[Any]], values: Mapping[str, Any]) -> dict[str, Any]:
    """``values``, those that are texts read as what ``declared`` says; unknown ones stay as they are.

    Raises:
        PlanError: A text cannot be read.
    """
    held = dict(values)
    for name, value in values.items():
        if isinstance(value, str) and name in declared:
            try:
                held[name] = declared[name].parse(value)
            except ValueError as error:
                raise PlanError(
                    "cannot read the setting",
                    where=f"score {score!r}",
                    got=f"{name}={value}"[:80],
                    expected=f"{name}: {declared[name].range}",
                ) from error
    return held


def checked(
    score: str,
    declared: Mapping[str, ScoreSetting[Any]],
    values: Mapping[str, Any],
    scores_with: Callable[[str], list[str]],
) -> dict[str, Any]:
    """``values`` with the defaults of what they leave out; ``scores_with`` names the scores that have a setting.

    Raises:
        PlanError: A setting is unknown, missing, or may not have its value; lists every problem.
    """
    lines, held = [], dict[str, Any]()
    for name in sorted(set(values) - set(declared)):
        if others := scores_with(name):
            instead = f"scores that have it: {', '.join(others)}"
        else:
            instead = f"expected {did_you_mean(name, declared) if declared else 'no settings at all'}"
        lines.append(f"{name}: score {score!r} has no such setting; {instead}")
    for name, setting in declared.items():
        if name not in values and setting.default is None:
            lines.append(f"{name}: score {score!r} needs it: {setting.help}")
            continue
        held[name] = setting.value(values.get(name, setting.default))
        if held[name] is None:
            lines.append(f"{name}: got {values.get(name)!r}, expected {setting.range}")
    if lines:
        raise PlanError(
            "the score's settings do not fit:\n" + "\n".join(f"  - {line}" for line in lines),
            where=f"score {score!r}",
            fix=f"--score {score} --help-score lists them; --score-option NAME=VALUE sets one",
        )
    return held


def method_of(name: str, score: Any, values: Mapping[str, Any], scores_with: Callable[[str], list[str]]) -> Method:
    """The method of a plan: checked settings and the score's facts; ``scores_with`` as ``checked`` takes it."""
    return Method(
        name,
        tuple(sorted(checked(name, score.settings, values, scores_with).items())),
        reads_text=score.reads_text,
        reads_spectrum=score.reads_spectrum,
        needs_positions=score.needs_positions,
    )
