"""What a pass is: a module with three functions and, where it is one of the list, a place in it."""

from __future__ import annotations

from typing import Protocol

from luvc_export.export.surgeon.graph import Surgery


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
