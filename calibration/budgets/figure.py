"""The search as a picture: the horizon curve, and cost against agreement."""

from __future__ import annotations

from typing import Any

from luvc_export.calibration.budgets.run import Result
from luvc_export.calibration.budgets.trials import Trial
from luvc_export.calibration.parity.plots import canvas, png


def horizon(result: Result) -> bytes:
    """Agreement by the layer before which all visual tokens go, as PNG.

    Raises:
        MachineError: matplotlib is not installed.
    """
    figure, axes = canvas(6.4, 3.6)
    curve = result.horizon.curve
    _points(axes, list(curve), list(curve.values()), "o-", "all visual tokens dropped before the layer")
    axes.axhline(result.bar, color="crimson", linestyle="--", label=f"bar {result.bar:g}")
    layers = result.none.layers
    end = f"horizon: layer {result.horizon.layer}" if result.horizon.layer < layers else "horizon: none"
    axes.axvline(result.horizon.layer, color="grey", linestyle=":", label=end)
    step = max(1, layers // 12)
    axes.set_xticks(range(0, layers + 1, step))
    axes.set(xlabel="layer", ylabel="agreement, calibration part", ylim=(0, 1.03))
    axes.legend(fontsize=8)
    return png(figure)


def frontier(result: Result) -> bytes:
    """Agreement against prefill FLOPs by the uncompressed model's, as PNG.

    Raises:
        MachineError: matplotlib is not installed.
    """
    figure, axes = canvas(6.8, 4.2)
    share = [trial.flops / result.flops for trial in result.frontier]
    _points(axes, share, result.frontier, "o-", f"frontier, calibration part ({result.chosen.asked} questions)")
    for mark, item in zip("sD^v", result.compared, strict=False):
        _points(axes, [item.theirs.flops / result.flops], [item.theirs], mark, f"{item.name}, held-out part")
    _points(
        axes,
        [result.checked.flops / result.flops],
        [result.checked],
        "*",
        f"chosen, held-out part ({result.checked.asked} questions)",
        markersize=13,
    )
    axes.axhline(result.bar, color="crimson", linestyle="--", label=f"bar {result.bar:g}")
    axes.set(xlabel="prefill FLOPs, share of the uncompressed model's", ylabel="agreement with the uncompressed model")
    axes.legend(fontsize=8, loc="lower right")
    return png(figure)


def _points(axes: Any, places: list[Any], trials: list[Trial], mark: str, label: str, **style: Any) -> None:
    values = [trial.agreement for trial in trials]
    error = [[value.value - value.low for value in values], [value.high - value.value for value in values]]
    axes.errorbar(
        places, [value.value for value in values], yerr=error, fmt=mark, capsize=2, linewidth=0.9, label=label, **style
    )
