"""The comparison as a page; every figure in it was measured by the run that writes it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from luvc_export.calibration.ablation.study import Row
from luvc_export.calibration.intervals import Interval

DEFAULT = "SPU, the default's settings"


def page(figures: dict[str, Any], about: dict[str, Any]) -> str:
    """Return the document of all grounds that were measured."""
    report, search, side = about["counts"]
    lines = [
        "# What to prune, on busy grounds and pages: measurements",
        "",
        f"Written by `{about['command']}` in `examples`. Do not edit: run it again.",
        "",
        f"Model and task of [examples/glyph_deep](../../examples/glyph_deep/MODEL_CARD.md), checkpoint sha256 "
        f"`{about['weights'][:16]}`, never trained with compression. {report} held-out questions a ground, {side} of "
        f"them for merging in the encoder and smaller pictures, {search} of the search split for the settings of the "
        "spectrum (even, 25 %). Intervals are 95 %, clustered by picture; retention is against the uncompressed model "
        "on the same questions. Even: a share of the tokens from before the first layer on. Staged: all in layer 0, "
        "then 4 : 2 : 1 by thirds of the other layers, the share on average over those.",
        "",
        "## In short",
        "",
        *conclusions(figures),
        "",
    ]
    for ground, parts in figures.items():
        lines += section(ground, parts)
    return "\n".join(lines)


def conclusions(figures: dict[str, Any]) -> list[str]:
    """Return sentences that follow from the rows alone."""
    lines, worse = [], []
    for ground, parts in figures.items():
        for name in ("even 0.25", "staged 0.25"):
            apart, rows = parts[name]["apart"], {row.name: row for row in parts[name]["rows"]}
            best, middle, own = rows[apart["best"]], rows[apart["median"]], rows[DEFAULT]
            verdict = "apart" if apart["intervals_apart"] else "not apart"
            lines.append(
                f"- {ground}, {name.split()[0]}, 25 %: best {best.name} {interval(best.accuracy)}, "
                f"median {middle.name} {interval(middle.accuracy)}: intervals {verdict}, "
                f"paired difference {interval(apart['difference'])}; the default's score {interval(own.accuracy)}."
            )
            if own.accuracy.high < best.accuracy.low:
                worse.append(f"{ground}, {name.split()[0]} ({best.name})")
    if "textured" in figures:
        lines.append(
            f"- On textured grounds at 25 %, even, in order: {order(figures['textured']['even 0.25']['rows'])}."
        )
    lines.append(
        "- The default's score is behind the best by more than the intervals on: " + "; ".join(worse) + "."
        if worse
        else "- Nowhere at 25 % is the default's score behind the best by more than the intervals."
    )
    return lines


def order(rows: Sequence[Row]) -> str:
    """Return methods by accuracy."""
    ranked = sorted(rows, key=lambda row: -row.accuracy.value)
    return ", ".join(f"{row.name} {row.accuracy.value:.3f}" for row in ranked)


def section(ground: str, parts: dict[str, Any]) -> list[str]:
    """Return one ground's tables."""
    none, rows, columns = parts["none"], *parts["grid"]
    lines = [
        f"## {ground.capitalize()}",
        "",
        f"{rows} x {columns} = {rows * columns} visual tokens. Uncompressed: {interval(none.accuracy)} of "
        f"{none.questions} questions. Settings searched: {parts['settings']}; the default's: {parts['default']}.",
        "",
    ]
    for name, schedule in (("even", "Evenly"), ("staged", "Staged")):
        tables = {share: parts[f"{name} {share:g}"]["rows"] for share in (0.5, 0.25, 0.1)}
        lines += [f"### {schedule}", "", by_share(tables), ""]
    lines += ["### By type of question, even, 25 %", "", kinds([none, *parts["even 0.25"]["rows"]]), ""]
    lines += ["### Merging in the encoder (OIM)", "", "Nothing is pruned in the LLM.", ""]
    for share, some in parts["encoder"].items():
        lines += [f"About {share} of the units:", "", simple(some), ""]
    return [*lines, "### Down-sampling at equal time to first token", "", *equal_time(parts["time"]), ""]


def by_share(tables: dict[float, Sequence[Row]]) -> str:
    """Return methods by the share of tokens kept: accuracy, and retention at a quarter."""
    names = list(dict.fromkeys(row.name for some in tables.values() for row in some))
    at = {share: {row.name: row for row in some} for share, some in tables.items()}
    body = []
    for name in names:
        cells = [interval(at[s][name].accuracy) if name in at[s] else "" for s in tables]
        body.append([name, *cells, interval(at[0.25][name].retention) if name in at[0.25] else ""])
    return table(["method", *(f"{s:.0%}" for s in tables), "retention at 25%"], body)


def equal_time(times: dict[str, Any]) -> list[str]:
    """Return the measured times, and what a smaller picture reaches in the time of a pruned one."""
    points = sorted((row.times.ttft, row.accuracy.value) for row in times["down"])
    body = []
    for row in times["pruned"]:
        inside = points[0][0] <= row.times.ttft <= points[-1][0]
        reached = np.interp(row.times.ttft, *zip(*points, strict=True)) if inside else None
        body.append([row.name, f"{row.times.ttft:.1f}", interval(row.accuracy),
                     "not reached" if reached is None else f"{reached:.3f}"])  # fmt: skip
    measured = [[f"{r.name} {r.remark}", f"{r.times.ttft:.1f}", interval(r.accuracy)] for r in times["down"]]
    return [
        "Processor milliseconds of one thread of the compressed torch model, median; linear between measured sizes.",
        "",
        table(["SPU, settings searched", "first token ms", "accuracy", "smaller picture in that time"], body),
        "",
        table(["picture", "first token ms", "accuracy"], measured),
    ]


def kinds(rows: Sequence[Row]) -> str:
    """Return accuracy by kind of question."""
    head = list(rows[0].kinds)
    return table(["method", *head], [[row.name, *(f"{row.kinds[k]:.2f}" for k in head)] for row in rows])


def simple(rows: Sequence[Row]) -> str:
    """Return a table of accuracy and retention."""
    label = [f"{r.name} ({r.remark})" if r.remark else r.name for r in rows]
    return table(
        ["method", "tokens", "accuracy", "retention"],
        [[n, f"{r.tokens:.0f}", interval(r.accuracy), interval(r.retention)] for n, r in zip(label, rows, strict=True)],
    )


def interval(value: Interval) -> str:
    """Return `0.981 (0.974 to 0.986)`."""
    return f"{value.value:.3f} ({value.low:.3f} to {value.high:.3f})"


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a Markdown table."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in lines)
