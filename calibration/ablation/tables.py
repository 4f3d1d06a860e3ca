"""The study as Markdown and plots."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import astuple
from pathlib import Path
from typing import Any

import numpy as np

from luvc_export.calibration.ablation import encoder_section, past
from luvc_export.calibration.ablation.study import Row
from luvc_export.calibration.parity.plots import canvas, error_bars, png
from luvc_export.core.files import pages


def page(results: dict[str, Any], about: dict[str, Any]) -> str:
    """The whole document, ``page.template`` filled in; every number in it was measured by the run that writes it."""
    encoder: list[str] = []
    for share, rows in results["encoder"].items():
        encoder += [f"### About {share} of the units", "", _simple(rows, "method")]
    settings: list[str] = []
    for key, name in (("search", "staged"), ("search_even", "even")):
        chosen = ", ".join(f"{part} {value}" for part, value in results["chosen"][name].items())
        settings += [f"### Settings of the spectrum, {name}", "", f"Chosen: {chosen}.", ""]
        settings.append(_simple(_best_first(results[key]), "setting"))
    past_paper = _past(results["past"]) if "past" in results else []
    none = results["main"][0]
    return pages.filled(
        Path(__file__).with_name("page.template"),
        **results,
        about=about,
        none=none,
        accuracy=none.accuracy.text(3),
        conclusions="\n".join(_conclusions(results)),
        horizon_table=_simple(results["horizon"], "gone before layer"),
        half_budgets=" ".join(map(str, results["half"])),
        main_table=_full(results["main"]),
        main_kinds=_kinds(results["main"]),
        equal_time=_equal_time(results),
        even_budgets=" ".join(map(str, results["even"])),
        one_shot_table=_full(results["one_shot"]),
        one_shot_kinds=_kinds(results["one_shot"]),
        encoder_tables="\n".join([*encoder, *encoder_section.lines(results)]),
        last_layer_table=_full(results["last_layer"]),
        default_tables="\n".join([_full(results["defaults"]), *past_paper]),
        schedules_table=_simple(_best_first(results["schedules"]), "schedule and method"),
        settings="\n".join(settings),
    )


def _best_first(rows: Sequence[Row]) -> list[Row]:
    return sorted(rows, key=lambda row: -row.accuracy.value)


def _past(parts: dict[str, Any]) -> list[str]:
    """Frozen layers, coverage and learned scores at equal FLOPs, and smaller pictures of the same first-token time."""
    rows = []
    for row in parts["equal"]:
        there = past.beside(row.times.ttft, parts["down"])
        cells = (row.accuracy.text(3), row.retention.text(3), f"{row.flops_ratio:.2f}x")
        rows.append((_label(row), *cells, f"{row.times.ttft:.1f}", "outside" if there is None else f"{there:.3f}"))
    head = ("method", "accuracy", "retention", "FLOPs fewer", "first token ms", "smaller picture in that time")
    still = " ".join(map(str, parts["frozen"]))
    return [
        f"## Past the paper: {parts['speedup']:g} times fewer prefill FLOPs",
        "",
        f"As many tokens in every layer as that leaves; frozen: in layers {still} visual tokens give keys and values "
        "alone, those that move predictions on the search split least. The last column is the uncompressed model on a "
        "smaller picture whose first token takes as long, linear between measured sizes.",
        "",
        pages.table(head, rows),
        "Smaller pictures:",
        "",
        _full(parts["down"]),
    ]


def _conclusions(results: dict[str, Any]) -> list[str]:
    """Sentences that follow from the rows alone."""
    rows = results["main"][1:]
    best = max(rows, key=lambda row: row.retention.value)
    by_name = {row.name: row for row in rows}
    spu, literal, random = by_name["SPU, settings searched"], by_name["SPU, the abstract's reading"], by_name["random"]
    default = results["defaults"][0]
    evenly = max(results["one_shot"], key=lambda row: row.retention.value)
    goal = [row.name for row in rows if row.retention.value >= 0.99]
    goal += [f"{row.name}, evenly" for row in results["one_shot"] if row.retention.value >= 0.99]
    reached = f"99 % retention is reached by: {'; '.join(goal)}." if goal else "No method reaches 99 % retention there."
    return [
        "## In short",
        "",
        f"- At half the prefill FLOPs, staged: best is {best.name}, retention {best.retention.text(3)}; evenly over"
        f" the layers: {evenly.name}, {evenly.retention.text(3)}. {reached}",
        f"- Staged, the literal low-pass reading keeps {literal.retention.text(3)}, searched settings"
        f" {spu.retention.text(3)}, random tokens {random.retention.text(3)}.",
        f"- `even` with `residual`, merging to three quarters, keeps {default.retention.text(3)} at"
        f" {default.flops_ratio:.2f}x fewer FLOPs.",
        "",
    ]


def _label(row: Row) -> str:
    return f"{row.name} ({row.remark})" if row.remark else row.name


def _full(rows: Sequence[Row]) -> str:
    head = ["method", "tokens a layer", "accuracy", "retention", "FLOPs fewer"]
    head += ["encoder ms", "prefill ms", "first token ms", "KV KiB"]
    return pages.table(
        head,
        [
            (
                _label(row),
                f"{row.tokens:.1f}",
                row.accuracy.text(3),
                row.retention.text(3),
                f"{row.flops_ratio:.2f}x",
                *(f"{value:.1f}" for value in astuple(row.times)),
                f"{row.kv_bytes / 1024:.1f}",
            )
            for row in rows
        ],
    )


def _simple(rows: Sequence[Row], head: str) -> str:
    return pages.table(
        (head, "tokens a layer", "accuracy", "retention"),
        [(_label(row), f"{row.tokens:.1f}", row.accuracy.text(3), row.retention.text(3)) for row in rows],
    )


def _kinds(rows: Sequence[Row]) -> str:
    kinds = list(rows[0].kinds)
    return pages.table(("method", *kinds), [(row.name, *(f"{row.kinds[kind]:.2f}" for kind in kinds)) for row in rows])


def equal_time(results: dict[str, Any]) -> tuple[float, dict[str, float]]:
    """Time of SPU at half the FLOPs, and each method's interpolated accuracy at it; nan where it cannot be reached."""
    curve = results["curve"]
    wanted = curve["SPU, settings searched"][1].times.ttft
    none = curve["downsampling"][0]
    reached = {name: past.beside(wanted, (*rows, none)) for name, rows in curve.items()}
    return wanted, {name: float("nan") if value is None else value for name, value in reached.items()}


def _equal_time(results: dict[str, Any]) -> str:
    wanted, accuracies = equal_time(results)
    none = results["curve"]["downsampling"][0].accuracy.value
    rows = [
        (name, f"{wanted:.1f}", *(("not reached", "") if np.isnan(value) else (f"{value:.3f}", f"{value / none:.3f}")))
        for name, value in sorted(accuracies.items(), key=lambda item: -item[1])
    ]
    return pages.table(("method", "first token ms", "accuracy", "retention"), rows)


def horizon(results: dict[str, Any]) -> bytes:
    """Accuracy by the layer before which all visual tokens go, for all questions and for each kind."""
    figure, axes = canvas(8.6, 4.2)
    rows = results["horizon"]
    layers = list(range(len(rows)))
    for number, kind in enumerate(rows[0].kinds):
        style = ("-", "--", ":")[number // 10 % 3]
        axes.plot(layers, [row.kinds[kind] for row in rows], linewidth=1, linestyle=style, label=kind.replace("_", " "))
    accuracy = [row.accuracy for row in rows]
    values = [each.value for each in accuracy]
    axes.errorbar(layers, values, yerr=error_bars(accuracy), color="black", marker="o", label="all")
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
        places, values = [_place(row, by) for row in points], [each.value for each in accuracy]
        axes.errorbar(places, values, yerr=error_bars(accuracy), marker="o", capsize=2, label=name)
    label = "visual tokens a layer, mean" if by == "tokens" else "time to first token, processor ms of one thread"
    axes.set(xlabel=label, ylabel="accuracy")
    axes.legend(fontsize=8)
    return png(figure)


def _place(row: Any, by: str) -> float:
    return float(row.tokens if by == "tokens" else row.times.ttft)
