"""The study as Markdown."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from luvc_export.calibration.ablation import encoder_section, past
from luvc_export.calibration.ablation.study import Row
from luvc_export.calibration.intervals import Interval
from luvc_export.core.files import pages


def page(results: dict[str, Any], about: dict[str, Any]) -> str:
    """The whole document; every number in it was measured by the run that writes it."""
    none = results["main"][0]
    lines = ["# What to prune: measurements", ""]
    lines += [
        f"Written by `{about['command']}`. Do not edit: run it again.",
        "",
        f"Task `{about['task']}`, checkpoint sha256 `{about['weights'][:16]}`, never trained with compression. "
        f"{none.questions} questions on the reported split ({about['report']}), {about['side']} of them in the "
        f"sections that say so; {about['search_count']} on the split where settings were searched ({about['search']}). "
        "Retention is accuracy by the uncompressed model's on the same questions; intervals are 95 %, clustered by "
        "picture. Times are processor milliseconds of one thread of the compressed torch model, one picture, "
        f"{results['text']} text tokens, median. KV bytes count 16-bit elements.",
        "",
        f"Uncompressed: accuracy {_interval(none.accuracy)}, {results['grid'][0]}x{results['grid'][1]} visual tokens.",
        "",
        *_conclusions(results),
        "What the task can tell: its pictures are digits on a plain ground, so tokens unlike their neighbours hold the "
        "answer, which favours scores of what a low-pass removes; a photograph may differ. How late the model looks is "
        "where its training put it. The model saw one scale in "
        "training, which is hard on downsampling. Differences inside the intervals are no differences.",
        "",
        "## Horizon",
        "",
        f"Accuracy when every visual token goes before layer l ({results['horizon'][0].questions} questions): how late "
        "the model still looks. Where it is flat, no pruning can be told from another.",
        "",
        "![horizon](ablation-horizon.png)",
        "",
        _simple(results["horizon"], "gone before layer"),
        "## Half the LLM's prefill FLOPs, equal budgets",
        "",
        f"No merging in the encoder; visual tokens by layer {' '.join(map(str, results['half']))}.",
        "",
        _full(results["main"]),
        "### By type of question",
        "",
        _kinds(results["main"]),
        "### At equal measured time to first token",
        "",
        "Accuracy of each method where its curve meets the time that SPU with searched settings takes (linear between "
        "measured points), and retention against the same questions uncompressed.",
        "",
        _equal_time(results),
        "![accuracy against time](ablation-time.png)",
        "",
        "![accuracy against budget](ablation-budget.png)",
        "",
        "## The same FLOPs, evenly",
        "",
        f"As many tokens in every layer, chosen once before the first, {' '.join(map(str, results['even']))}, as "
        "host-side pruning does (dart is what the vendor's edge toolkit ships). v2drop and fastv need a layer before.",
        "",
        _full(results["one_shot"]),
        "### By type of question",
        "",
        _kinds(results["one_shot"]),
        "## Merging in the encoder (OIM)",
        "",
        "Nothing is pruned in the LLM. Random, stride, dart, pyramiddrop and merge stand before the LLM's first layer.",
        "",
    ]
    for share, rows in results["encoder"].items():
        lines += [f"### About {share} of the units", "", _simple(rows, "method")]
    lines += encoder_section.lines(results)
    lines += ["## Last layer", "", _full(results["last_layer"]), "## Default plans", ""]
    lines += [
        "OIM to three quarters of the units, then the schedule.",
        "",
        _full(results["defaults"]),
    ]
    lines += _past(results["past"]) if "past" in results else []
    lines += [
        "## Search",
        "",
        "On the search split alone. Where along the depth the tokens are, at half the prefill FLOPs; visual tokens by "
        "layer in brackets. The best one is measured on the reported split above.",
        "",
        _simple(sorted(results["schedules"], key=lambda row: -row.accuracy.value), "schedule and method"),
    ]
    for key, name in (("search", "staged"), ("search_even", "even")):
        chosen = ", ".join(f"{part} {value}" for part, value in results["chosen"][name].items())
        lines += [f"### Settings of the spectrum, {name}", "", f"Chosen: {chosen}.", ""]
        lines.append(_simple(sorted(results[key], key=lambda row: -row.accuracy.value), "setting"))
    return "\n".join(lines)


def _past(parts: dict[str, Any]) -> list[str]:
    """Frozen layers, coverage and learned scores at equal FLOPs, and smaller pictures of the same first-token time."""
    rows = []
    for row in parts["equal"]:
        there = past.beside(row.times.ttft, parts["down"])
        cells = (_interval(row.accuracy), _interval(row.retention), f"{row.flops_ratio:.2f}x")
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
        f"- At half the prefill FLOPs, staged: best is {best.name}, retention {_interval(best.retention)}; evenly over"
        f" the layers: {evenly.name}, {_interval(evenly.retention)}. {reached}",
        f"- Staged, the literal low-pass reading keeps {_interval(literal.retention)}, searched settings"
        f" {_interval(spu.retention)}, random tokens {_interval(random.retention)}.",
        f"- The package's default plan (first of the default plans below) keeps {_interval(default.retention)} at"
        f" {default.flops_ratio:.2f}x fewer FLOPs.",
        "",
    ]


def _interval(value: Interval) -> str:
    return f"{value.value:.3f} ({value.low:.3f} to {value.high:.3f})"


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
                _interval(row.accuracy),
                _interval(row.retention),
                f"{row.flops_ratio:.2f}x",
                *(f"{value:.1f}" for value in row.times),
                f"{row.kv_bytes / 1024:.1f}",
            )
            for row in rows
        ],
    )


def _simple(rows: Sequence[Row], head: str) -> str:
    return pages.table(
        (head, "tokens a layer", "accuracy", "retention"),
        [(_label(row), f"{row.tokens:.1f}", _interval(row.accuracy), _interval(row.retention)) for row in rows],
    )


def _kinds(rows: Sequence[Row]) -> str:
    kinds = list(rows[0].kinds)
    return pages.table(("method", *kinds), [(row.name, *(f"{row.kinds[kind]:.2f}" for kind in kinds)) for row in rows])


def equal_time(results: dict[str, Any]) -> tuple[float, dict[str, float]]:
    """Time of SPU at half the FLOPs, and each method's interpolated accuracy at it; nan where it cannot be reached."""
    curve = results["curve"]
    wanted = curve["SPU, settings searched"][1].times.ttft
    none = curve["downsampling"][0]
    accuracies = {}
    for name, rows in curve.items():
        points = sorted((row.times.ttft, row.accuracy.value) for row in (*rows, none))
        times, values = zip(*points, strict=True)
        inside = times[0] <= wanted <= times[-1]
        accuracies[name] = float(np.interp(wanted, times, values)) if inside else float("nan")
    return wanted, accuracies


def _equal_time(results: dict[str, Any]) -> str:
    wanted, accuracies = equal_time(results)
    none = results["curve"]["downsampling"][0].accuracy.value
    rows = [
        (name, f"{wanted:.1f}", *(("not reached", "") if np.isnan(value) else (f"{value:.3f}", f"{value / none:.3f}")))
        for name, value in sorted(accuracies.items(), key=lambda item: -item[1])
    ]
    return pages.table(("method", "first token ms", "accuracy", "retention"), rows)
