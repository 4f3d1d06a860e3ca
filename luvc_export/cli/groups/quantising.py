"""Options that say how ranges and scales of a quantised plan are chosen."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from luvc_export.core.options import option
from luvc_export.errors import UsageError

if TYPE_CHECKING:
    from luvc_export.calibration.quantise.recipe import Recipe


@dataclass(frozen=True)
class RecipeOptions:
    """Ranges of activations, rounding of weights, products that stay high, and who decides."""

    method: str = option("max", "Range of activations: max, percentile, entropy.", "--range")
    percentile: float = option(99.99, "For --range percentile.")
    smooth: float | None = option(None, "SmoothQuant's alpha for int8, 0.5 by default; 0 turns it off.")
    rtn: bool = option(False, "Round four-bit weights to nearest.")
    divergence: float | None = option(
        None, "For q4: KL in nats by which predictions may move; the worst products get 8 bits. inf: none."
    )
    keep_high: tuple[str, ...] = option((), "Products that stay high; repeat.", metavar="REGEX")
    quantise_too: tuple[str, ...] = option((), "Of products high by default (lm_head); repeat.", metavar="REGEX")
    ranges: Path | None = option(None, "File that keeps ranges between runs.", "--cache")
    backend: str = option("luvc", "Who decides scales: luvc, or modelopt (int8).", choices=("luvc", "modelopt"))
    modelopt_python: Path | None = option(None, "Python of an environment with nvidia-modelopt.")

    def recipe(self, precision: str, smooth: float, stated: Collection[str]) -> Recipe:
        """The recipe for ``precision``.

        Args:
            precision: Its name.
            smooth: SmoothQuant's alpha where ``--smooth`` does not say.
            stated: Fields that the command line says.

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


def _check_heeded(stated: Collection[str], recipe: Recipe) -> None:
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
