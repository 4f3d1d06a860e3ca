"""The passes of graph surgery, one a file, found by their names and run by their ``ORDER``.

A pass is a module with three functions and, where it is one of the list, a place in it.

A package outside this one adds a pass through the entry-point group ``luvc_export.passes``: the entry's name is the
pass's, its value the module, whose last name it is (docs/research.md). ``lint`` is no file of this folder: it always
runs last.
"""

from __future__ import annotations

from types import ModuleType
from typing import Any, Protocol

from luvc_export.errors import UsageError
from luvc_export.export.surgeon.graph import Surgery
from luvc_export.registry import Registry

ENTRY_POINTS = "luvc_export.passes"


class Step(Protocol):
    """What ``run_passes`` runs."""

    __name__: str

    def requires(self, surgery: Surgery) -> str | None:
        """Why the pass has nothing to do here, or None."""

    def apply(self, surgery: Surgery) -> int:
        """Change the graph; return how often. ``surgery.skip`` says why something was left alone."""

    def ensures(self, surgery: Surgery, fired: int) -> None:
        """Check the result.

        Raises:
            CheckFailed: The pass broke its promise.
        """


class Pass(Step, Protocol):
    """A step with a place.

    Attributes:
        ORDER: Passes run from the smallest to the largest; no two have the same. Ours are multiples of 10, so that
            others fit between.
    """

    ORDER: int


def _misfit(name: str, module: Any) -> str | None:
    if not isinstance(module, ModuleType) or module.__name__.rsplit(".", 1)[-1] != name:
        return f"a module called {name}"
    lacking = [part for part in ("requires", "apply", "ensures") if not callable(getattr(module, part, None))]
    lacking += ["ORDER, a whole number"] if type(getattr(module, "ORDER", None)) is not int else []
    return f"a module that has {', '.join(lacking)} too" if lacking else None


_PASSES: Registry[Pass] = Registry("pass", __name__, ENTRY_POINTS, "", _misfit)


#: The pass of a name.
find = _PASSES.find


def names() -> list[str]:
    """Every pass in the order in which they run.

    Raises:
        UsageError: Two have the same place, or an installed one cannot be loaded.
    """
    places: dict[int, str] = {}
    for name in _PASSES.names():
        order = find(name).ORDER
        if order in places:
            raise UsageError(
                "two passes have the same place",
                where=f"{ENTRY_POINTS}: ORDER = {order}",
                got=f"{places[order]}, {name}",
                fix="give one of them another ORDER, or remove the package that brings it",
            )
        places[order] = name
    return [places[order] for order in sorted(places)]


def ordered() -> tuple[Pass, ...]:
    """The passes of ``names``."""
    return tuple(map(find, names()))
