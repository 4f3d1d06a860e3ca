"""``luvc-export calibrate``."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from luvc_export.cli import options
from luvc_export.cli.files import check_folder, check_writable
from luvc_export.cli.groups import DataOptions
from luvc_export.cli.options import grouped, stated
from luvc_export.cli.tables.console import write
from luvc_export.core.options import option
from luvc_export.errors import UsageError
from luvc_export.runtime.session_options import SessionOptions

if TYPE_CHECKING:
    from luvc_export.calibration.quantise.modelopt.backend import ModelOpt
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
    """Refuse options that this recipe would not heed."""
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


#: Half of them are held out.
_DATA = DataOptions(count=256)


@grouped
def calibrate(
    context: typer.Context,
    *,
    bundle: options.Bundle,
    precision: str | None = option(None, "int8, fp8, int4, nvfp4, nvfp4a16; for the CPU: q8, q4, q4f16."),
    kv: str | None = option(None, "In place of --precision: store keys and values in int8 (PLAN_kv8)."),
    asked: DataOptions = _DATA,
    min_agreement: float = option(
        0.99, "Share of answers that must stay what the plan's are.", "--retention", "--min-agreement"
    ),
    target: str | None = option(None, "Refuse what this target cannot run."),
    rounding: RecipeOptions,
    opening: SessionOptions,
    output: Path | None = option(None, "Write a new bundle instead.", "-o", "--output"),
    overwrite: bool = option(False, "Replace a plan of that name."),
    as_json: options.Json = False,
) -> None:
    """Quantise a plan on data, and keep high the fewest layers that answers need. Adds a plan such as PLAN_int8.

    [dim]luvc-export calibrate demo-out/bundle --precision int8 --data glyph --retention 0.99
    luvc-export calibrate demo-out/bundle --kv int8 --data glyph[/dim]
    """
    from luvc_export.bundle import folder as bundles
    from luvc_export.calibration.quantise import cache_calibration as cache_work
    from luvc_export.calibration.quantise import calibrate as work
    from luvc_export.cli.tables.quantised import caches_report, foretell, weights_lines, weights_report

    recipe, other = _recipe(context, precision, kv, rounding, target)
    if asked.data is None:
        raise UsageError(
            "calibration needs data: random data would give ranges of nothing",
            where="--data",
            expected="a folder of pictures, a JSON Lines file, or a task",
            fix="--data glyph for the bundled model",
        )
    check_folder(output, "--output")
    check_writable(rounding.ranges, "--cache")
    with options.progress(as_json) as tell:
        loaded = bundles.load(bundle, opening.verify, tell, task=None)
    asked_plan = opening.plan or loaded.manifest.default_plan
    common: dict[str, Any] = {"plan": opening.plan, "min_agreement": min_agreement, "threads": opening.threads}
    common |= {"output": output, "overwrite": overwrite}
    if recipe is None:
        cache_work.check(loaded, asked_plan, str(kv), min_agreement, overwrite, output)
    else:
        work.check(loaded, asked_plan, recipe, min_agreement, overwrite, output)
    with options.progress(as_json) as tell:
        cases = asked.load(tell)
        if recipe is None:
            stored = cache_work.calibrate_caches(loaded, cases, str(kv), progress=tell, **common)
            data, lines = caches_report(stored, cases, min_agreement)
        else:
            own: dict[str, Any] = {
                "keep_high": rounding.keep_high,
                "quantise_too": rounding.quantise_too,
                "modelopt": other,
            }
            own |= {"ranges_file": rounding.ranges, "foretell": foretell}
            calibrated = work.calibrate(loaded, cases, recipe, progress=tell, **own, **common)
            data, lines = weights_report(calibrated), [*weights_lines(calibrated, cases, min_agreement)]
    write(as_json, data, *lines)


def _recipe(
    context: typer.Context, precision: str | None, kv: str | None, rounding: RecipeOptions, target: str | None
) -> tuple[Recipe | None, ModelOpt | None]:
    """How weights are quantised, and who decides, checked against the target; nothing where caches are stored."""
    from luvc_export.core.precision import check_caches, check_caches_target, check_target
    from luvc_export.engines import targets

    if (precision is None) == (kv is None):
        raise UsageError(
            "calibrate takes --precision, for weights, or --kv, for keys and values",
            where="--precision, --kv",
            got="neither" if kv is None else "both",
            fix="one after the other: --precision q8 first, then --kv int8 --plan PLAN_quantized",
        )
    options_stated = stated(context, RecipeOptions)
    if kv is not None:
        if flags := [each.flag for each in options_stated]:
            raise UsageError("these options are for weights", where=", ".join(flags), got="--kv", fix="leave them out")
        check_caches(kv)
        if target is not None:
            check_caches_target(targets.find(target))
        return None, None
    other = _modelopt(rounding)
    recipe = rounding.recipe(str(precision), 0.0 if other else 0.5, [each.name for each in options_stated])
    if target is not None:
        check_target(recipe.precision, targets.find(target))
    return recipe, other


def _modelopt(asked: RecipeOptions) -> ModelOpt | None:
    from luvc_export.calibration.quantise.modelopt.backend import ModelOpt

    python = asked.modelopt_python
    if (asked.backend == "modelopt") != (python is not None):
        raise UsageError(
            "--backend modelopt and --modelopt-python belong together",
            where="--modelopt-python",
            got=python,
            expected="the Python of an environment with nvidia-modelopt, for --backend modelopt alone",
        )
    return None if python is None else ModelOpt(python)
