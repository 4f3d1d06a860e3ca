"""Options that say how ranges and scales of a quantised plan are chosen."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

import typer

from luvc_export.errors import UsageError

if TYPE_CHECKING:
    from luvc_export.calibration.quantise.recipe import Recipe


@dataclass(frozen=True)
class RecipeOptions:
    """Ranges of activations and rounding of weights."""

    method: Annotated[str, typer.Option("--range", help="Range of activations: max, percentile, entropy.")] = "max"
    percentile: Annotated[float, typer.Option("--percentile", help="For --range percentile.")] = 99.99
    smooth: Annotated[
        float | None, typer.Option("--smooth", help="SmoothQuant's alpha for int8, 0.5 by default; 0 turns it off.")
    ] = None
    rtn: Annotated[bool, typer.Option("--rtn", help="Round four-bit weights to nearest.")] = False
    divergence: Annotated[
        float | None,
        typer.Option(
            "--divergence",
            help="For q4: KL in nats by which predictions may move; the worst products get 8 bits. inf: none.",
        ),
    ] = None

    def recipe(self, precision: str, smooth: float, stated: list[str]) -> Recipe:
        """The recipe for ``precision``.

        Args:
            precision: Its name.
            smooth: SmoothQuant's alpha where ``--smooth`` does not say.
            stated: See ``options.given``.

        Raises:
            UsageError: No such precision, or an option that it does not heed.
        """
        from luvc_export.calibration.quantise.recipe import DIVERGENCE, Recipe
        from luvc_export.core.precision import find

        alpha = smooth if self.smooth is None else self.smooth
        divergence = DIVERGENCE if self.divergence is None else self.divergence
        recipe = Recipe(find(precision), self.method, self.percentile, alpha, not self.rtn, divergence=divergence)
        _check_heeded(stated, recipe)
        return recipe


def _check_heeded(stated: list[str], recipe: Recipe) -> None:
    """Refuse options that this recipe would not heed.

    Raises:
        UsageError: One was given.
    """
    precision = recipe.precision
    conditions = {
        "method": (precision.ranges and precision.weights != 4, "--range", "a precision that takes ranges: int8, fp8"),
        "percentile": (recipe.method == "percentile", "--percentile", "--range percentile"),
        "smooth": (precision.name == "int8", "--smooth", "--precision int8"),
        "rtn": (precision.weights == 4, "--rtn", "a precision of four-bit weights"),
        "divergence": (precision.mixed, "--divergence", "--precision q4 or q4f16"),
    }
    for name, (heeded, flag, needs) in conditions.items():
        if name in stated and not heeded:
            raise UsageError(
                "this option would change nothing", where=flag, got=f"--precision {precision.name}", expected=needs
            )
