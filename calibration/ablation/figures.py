"""The study's plots."""

from __future__ import annotations

from typing import Any

from luvc_export.calibration.parity.plots import canvas, png


def horizon(results: dict[str, Any]) -> bytes:
    """Accuracy by the layer before which all visual tokens go, for all questions and for each kind."""
    figure, axes = canvas(8.6, 4.2)
    rows = results["horizon"]
    layers = list(range(len(rows)))
    for number, kind in enumerate(rows[0].kinds):
        style = ("-", "--", ":")[number // 10 % 3]
        axes.plot(layers, [row.kinds[kind] for row in rows], linewidth=1, linestyle=style, label=kind.replace("_", " "))
    low = [row.accuracy.value - row.accuracy.low for row in rows]
    high = [row.accuracy.high - row.accuracy.value for row in rows]
    axes.errorbar(
        layers, [row.accuracy.value for row in rows], yerr=[low, high], color="black", marker="o", label="all"
    )
    axes.set_xticks(layers, [*map(str, layers[:-1]), "never"])
    axes.set(xlabel="every visual token goes before layer", ylabel="accuracy", ylim=(0, 1.02))
    axes.legend(fontsize=8, loc="center left", bbox_to_anchor=(1.01, 0.5))
    return png(figure)


def curve(results: dict[str, Any], by: str) -> bytes:
    """Accuracy of each method against mean tokens a layer (``tokens``) or time to first token (``time``)."""
    figure, axes = canvas(6.4, 4.0)
    none = results["curve"]["downsampling"][0]
    for name, rows in results["curve"].items():
        points = sorted([*rows, none], key=lambda row: _place(row, by)) if name != "downsampling" else rows
        accuracy = [row.accuracy for row in points]
        error = [[a.value - a.low for a in accuracy], [a.high - a.value for a in accuracy]]
        axes.errorbar(
            [_place(row, by) for row in points],
            [a.value for a in accuracy],
            yerr=error,
            marker="o",
            capsize=2,
            label=name,
        )
    label = "visual tokens a layer, mean" if by == "tokens" else "time to first token, processor ms of one thread"
    axes.set(xlabel=label, ylabel="accuracy")
    axes.legend(fontsize=8)
    return png(figure)


def _place(row: Any, by: str) -> float:
    return float(row.tokens if by == "tokens" else row.times.ttft)
