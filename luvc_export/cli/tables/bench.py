"""The table ``luvc-export bench`` prints."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from rich.table import Table

from luvc_export.runtime.bench.loaded_case import Held
from luvc_export.runtime.bench.machine import Machine, Roofline, roofline
from luvc_export.runtime.bench.measure import Stat, Timed, ratio
from luvc_export.runtime.bench.plan_memory import OpenPlans
from luvc_export.runtime.bench.profile import KernelTimes
from luvc_export.runtime.cpu_features import cpu_features
from luvc_export.runtime.speculation.draft_length import needed_acceptance

_ROWS = (
    ("preprocess ms", "preprocess_ms"),
    ("vision ms", "vision_ms"),
    ("prefill ms", "prefill_ms"),
    ("first token ms", "ttft_ms"),
    ("decode tokens/s", "tokens_per_s"),
    ("outside the graphs ms", "outside_ms"),
)


def bench_table(
    timed: Sequence[Timed],
    profiles: Sequence[Mapping[str, KernelTimes]],
    machine: Machine,
    opened: Sequence[OpenPlans | None] = (),
) -> Table:
    """Medians and spread, a column a case, and the second by the first, run by run."""
    rates = f"{machine.flops / 1e9:.0f} GFLOP/s, {machine.bandwidth / 1e9:.1f} GB/s"
    features = ", ".join(cpu_features()) or "CPU features unknown"
    table = Table(title=f"this machine: {rates}, {machine.threads} threads, {features}")
    table.add_column("median ±half of the middle 50 %")
    for one in timed:
        table.add_column(one.facts.label, justify="right")
    paired = len(timed) == 2
    if paired:
        table.add_column("second / first", justify="right")

    def add(name: str, cells: Sequence[str], last: str = "") -> None:
        table.add_row(name, *cells, *([last] if paired else []))

    for name, metric in _ROWS:
        stats = [one.stat(metric) for one in timed]
        if not all(stat.median > 0 for stat in stats):
            continue
        add(name, [_stat(stat) for stat in stats], _stat(ratio(timed[0], timed[1], metric)) if paired else "")
    for part, engine in dict.fromkeys(kind for one in timed for kind in one.call_kinds):
        has = [(part, engine) in one.call_kinds for one in timed]
        cells = [_stat(one.call_ms(part, engine)) if here else "none" for one, here in zip(timed, has, strict=True)]
        add(f"{part} on {engine}, ms a call", cells)
    if any(one.stat("drafted").median > 0 for one in timed):
        for name in ("tokens_per_step", "acceptance_length", "acceptance"):
            add(name.replace("_", " "), [_number(one.stat(name).median) for one in timed])
        add("acceptance from which these drafts pay", [_number(needed(one)) for one in timed])
    add(
        "outside, share of all", [f"{one.stat('outside_ms').median / one.stat('total_ms').median:.1%}" for one in timed]
    )
    add("KV cache MiB", [f"{one.facts.kv_mib:.2f}" for one in timed], _by([one.facts.kv_mib for one in timed]))
    add("peak memory MiB", [_rounded(one.facts.peak_mib) for one in timed], _by([one.facts.peak_mib for one in timed]))
    add("held at the end, no file behind", [_rounded(one.facts.anonymous_mib) for one in timed])
    if any(opened):
        for name, cells in _open_rows(opened):
            add(name, cells)
    add("back-end", [f"{one.facts.backend}, {one.facts.arithmetic}" for one in timed])
    add("load ms", [f"{one.facts.load_ms:.0f}" for one in timed], _by([one.facts.load_ms for one in timed]))
    if any(one.facts.compile_ms is not None for one in timed):
        add("of that compiling", [_rounded(one.facts.compile_ms) for one in timed])
    add("first answer ms", [f"{one.facts.first_ms:.0f}" for one in timed], _by([one.facts.first_ms for one in timed]))
    add("prefill GFLOPs", [f"{one.facts.prefill_flops / 1e9:.4g}" for one in timed],
        _by([one.facts.prefill_flops for one in timed]))  # fmt: skip
    reached = [roofline(one, machine) for one in timed]
    add("prefill, share of matrix rate", [f"{limit.prefill:.0%}" for limit in reached])
    add("decode, share of bandwidth", [_decode(limit) for limit in reached])
    for graph, done in (("vision", "merge"), ("decoder", "prune")):
        add(f"{done}s alone, share of {'prefill' if done == 'prune' else 'vision'}",
            [_part(profile.get(graph), done) for profile in profiles])  # fmt: skip
    add("visual tokens by layer", [_runs(one.facts.visual_tokens) for one in timed])
    return table


def _open_rows(opened: Sequence[OpenPlans | None]) -> Iterator[tuple[str, list[str]]]:
    """Memory of each case's plan and its variants."""
    for name, part in (("all plans open", "together"), ("one plan open at a time", "evicted")):
        yield name, ["no variants" if one is None else _open(getattr(one, part), len(one.plans)) for one in opened]
        held = [None if one is None else getattr(one, part) for one in opened]
        yield "  peak memory MiB", ["" if one is None else _rounded(one.peak_mib) for one in held]
        yield "  held at the end, no file behind", ["" if one is None else _rounded(one.anonymous_mib) for one in held]


def _open(held: Held | None, plans: int) -> str:
    if held is None:
        return f"{plans} do not fit"
    copies = f", {held.shared} from one copy of the weights" if held.shared else ""
    return f"{held.open_plans} of {plans}{copies}"


def needed(one: Timed) -> float:
    """The bar of a model that drafts (``draft_length.needed_acceptance``) by what its calls took; NaN for look-up."""
    ms = {part: one.call_ms(part, engine).median for part, engine in one.call_kinds}
    drafted = round(one.stat("drafted").median)
    if not drafted or not {"step", "verify", "draft step"} <= set(ms):
        return math.nan
    cost, checking = ms["draft step"] / ms["step"], (ms["verify"] / ms["step"] - 1) / drafted
    return needed_acceptance(drafted, cost, checking)


def _number(value: float) -> str:
    return "none" if value != value else "never" if value == math.inf else f"{value:.2f}"


def _stat(stat: Stat) -> str:
    return f"{stat.median:.4g} ±{(stat.high - stat.low) / 2 / stat.median:.0%}"


def _rounded(value: float | None) -> str:
    return "unknown" if value is None else f"{value:.0f}"


def _by(values: Sequence[Any]) -> str:
    if len(values) != 2 or not all(values):
        return ""
    return f"{values[1] / values[0]:.3g}x"


def _decode(limit: Roofline) -> str:
    return f"{limit.decode:.0%}" if limit.decode == limit.decode else "no second token"


def _part(profile: KernelTimes | None, part: str) -> str:
    if profile is None or not profile.total_ms:
        return "not run"
    cost: float = getattr(profile, f"{part}_ms")
    return f"{cost:.2f} ms, {cost / profile.total_ms:.2%}"


def _runs(tokens: Sequence[int]) -> str:
    """``756 x3, 378 x3, 0``."""
    pieces: list[list[int]] = []
    for count in tokens:
        if pieces and pieces[-1][0] == count:
            pieces[-1][1] += 1
        else:
            pieces.append([count, 1])
    return ", ".join(f"{count} x{times}" if times > 1 else str(count) for count, times in pieces)
