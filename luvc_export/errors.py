"""Errors a user can act on: what, where, got, expected, how to fix, and the exit code of the CLI.

Also how work that takes long says how far it is.
"""

from __future__ import annotations

import difflib
import unicodedata
from collections.abc import Callable, Iterable
from typing import Any

#: Told (stage, share of that stage that is done, 0 to 1).
Progress = Callable[[str, float], None]


class LuvcError(Exception):
    """Base of every error this package raises on purpose.

    Args:
        what: One sentence naming what is wrong.
        where: File, field, layer or node.
        got: The offending value.
        expected: What would have been accepted.
        fix: The next thing to try, preferably a flag or command.
    """

    exit_code = 2

    def __init__(
        self,
        what: str,
        *,
        where: str | None = None,
        got: object = None,
        expected: object = None,
        fix: str | None = None,
    ) -> None:
        self.what, self.where, self.got, self.expected, self.fix = what, where, got, expected, fix
        parts = (("where", where), ("got", got), ("expected", expected), ("fix", fix))
        lines = [f"  {label}: {value}" for label, value in parts if value is not None]
        super().__init__(shown("\n".join([what, *lines])))

    def to_json(self) -> dict[str, Any]:
        """Plain data: the kind of error, its exit code, and its parts, null where there is none."""
        parts = {"where": self.where, "got": self.got, "expected": self.expected, "fix": self.fix}
        texts = {name: None if value is None else str(value) for name, value in parts.items()}
        return {"kind": type(self).__name__, "exit_code": self.exit_code, "what": self.what, **texts}

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> LuvcError:
        """An error of another process, from ``to_json``; of this class where its kind is none of this module's."""
        kind = globals().get(str(data["kind"]))
        known = kind if isinstance(kind, type) and issubclass(kind, LuvcError) else cls
        return known(data["what"], **{name: data[name] for name in ("where", "got", "expected", "fix")})


class UsageError(LuvcError):
    """Bad input or bad usage: exit code 2."""


class PlanError(UsageError):
    """A plan that cannot be built or does not fit: exit code 2. Lists every problem at once."""


class BundleError(UsageError):
    """A bundle that is damaged, unsafe, or from a newer version: exit code 2."""


class CheckpointError(UsageError):
    """A checkpoint that is missing, truncated or of an unsupported family: exit code 2."""


class CheckFailed(LuvcError):  # noqa: N818
    """A check ran and failed: exit code 1."""

    exit_code = 1


class MachineError(LuvcError):
    """This machine lacks a back-end, a GPU or memory: exit code 3."""

    exit_code = 3


class InternalError(LuvcError):
    """A bug of this package: exit code 70 (``EX_SOFTWARE`` of BSD's sysexits.h), so that no gate seems to fail."""

    exit_code = 70


def shown(text: str) -> str:
    """``text`` for a terminal: control characters but line ends and tabs, and what turns text around, as escapes."""
    if text.isascii() and text.isprintable():
        return text
    return "".join(
        letter
        if letter in "\n\t" or unicodedata.category(letter) not in ("Cc", "Cf", "Cs", "Zl", "Zp")
        else letter.encode("unicode_escape").decode("ascii")
        for letter in text
    )


def first_few(names: Iterable[str], most: int = 5) -> str:
    """The first ``most`` of ``names``, and whether there are more: ``"a, b, ..."``."""
    every = [*names]
    return ", ".join(every[:most]) + (", ..." if len(every) > most else "")


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Return ``"did you mean 'x'? known: a, b, c"`` for an unknown ``name``."""
    names = sorted(known)
    close = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
    hint = f"did you mean {close[0]!r}? " if close else ""
    return f"{hint}known: {', '.join(names)}"
