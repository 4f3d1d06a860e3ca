"""What is found by name: the files of one of our folders, then what installed packages announce as entry points.

Families, scores, targets and passes are such. A file whose name begins with ``_``, and ``base.py``, is none of them.
"""

from __future__ import annotations

import pkgutil
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from importlib.metadata import EntryPoint, entry_points
from typing import Any, Generic, TypeVar

from luvc_export.errors import LuvcError, UsageError, did_you_mean

T = TypeVar("T")


@dataclass(frozen=True)
class Registry(Generic[T]):
    """One kind of thing.

    Attributes:
        kind: What one is called in errors.
        package: Dotted name of our folder.
        group: Entry-point group: the entry's name is the thing's, its value ``module:NAME``, or a module.
        attribute: What our own files call theirs (``FAMILY``); empty where the module itself is the thing.
        misfit: Given the name and what an installed package brings: what was expected instead, None when it fits.
        error: Raised about an installed one, and by ``find``.
        dashes: Names have ``-`` where files have ``_``.
        where: What names one, for the error of ``find``.
        fix: The same: what to do.
    """

    kind: str
    package: str
    group: str
    attribute: str
    misfit: Callable[[str, Any], str | None]
    error: type[LuvcError] = UsageError
    dashes: bool = False
    where: str | None = None
    fix: str | None = None

    def built_in(self) -> list[str]:
        """Names of our own, sorted."""
        own = (name for name in _modules(self.package) if name != "base" and not name.startswith("_"))
        return sorted(name.replace("_", "-") if self.dashes else name for name in own)

    def names(self) -> list[str]:
        """Every name there is, sorted."""
        return sorted({*self.built_in(), *self._installed()})

    def get(self, name: str) -> T | None:
        """The one called ``name``, ours before an installed one; None if there is neither.

        Raises:
            LuvcError: (``error``) An installed one cannot be loaded or is none.
        """
        if name in self.built_in():
            module = import_module(f"{self.package}.{name.replace('-', '_') if self.dashes else name}")
            own: T = getattr(module, self.attribute) if self.attribute else module  # type: ignore[assignment]
            return own
        entry = self._installed().get(name)
        return None if entry is None else self._load(entry)

    def find(self, name: str) -> T:
        """The one called ``name``, as ``get`` finds it.

        Raises:
            LuvcError: (``error``) There is none, or an installed one cannot be loaded or is none.
        """
        one = self.get(name)
        if one is None:
            known = did_you_mean(name, self.names())
            raise self.error(f"unknown {self.kind}", where=self.where, got=repr(name), expected=known, fix=self.fix)
        return one

    def _installed(self) -> dict[str, EntryPoint]:
        return _announced(self.group, tuple(sys.path))

    def _load(self, entry: EntryPoint) -> T:
        where = f"{self.group}: {entry.name} = {entry.value}"
        try:
            loaded = entry.load()
        except LuvcError:
            raise
        except Exception as error:  # whatever its import runs into
            raise self.error(
                f"an installed {self.kind} cannot be loaded",
                where=where,
                got=f"{type(error).__name__}: {error}",
                fix="update or remove the package that brings it",
            ) from error
        if (expected := self.misfit(entry.name, loaded)) is not None:
            called = getattr(loaded, "model_type", None) or getattr(loaded, "name", None) or ""
            got = f"{type(loaded).__name__} {called}".strip()
            raise self.error(
                f"what an installed package calls a {self.kind} is something else",
                where=where,
                got=got,
                expected=expected,
            )
        installed: T = loaded
        return installed


@cache
def _modules(package: str) -> tuple[str, ...]:
    """Names of a folder of ours, read once: a search of budgets asks for its score thousands of times."""
    return tuple(module.name for module in pkgutil.iter_modules(import_module(package).__path__))


@cache
def _announced(group: str, path: tuple[str, ...]) -> dict[str, EntryPoint]:
    """What packages on ``path`` announce, read once: every checkpoint that is opened asks for its family."""
    return {entry.name: entry for entry in entry_points(group=group)}
