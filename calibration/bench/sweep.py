"""A sweep over the number of tokens, or over the budgets a bundle was exported with.

Its cases, and what was measured of them as a curve and as one self-contained page.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

from luvc_export.bundle.folder import load
from luvc_export.calibration.parity.plots import canvas, png
from luvc_export.core.files.html import document, figure, table
from luvc_export.runtime.bench.case import BenchCase
from luvc_export.runtime.bench.machine import Machine
from luvc_export.runtime.bench.measure import Timed, exponent

SweepAxis = Literal["tokens", "budget"]

_STEPS = 6
_IMAGES = (1, 2, 3)


@dataclass(frozen=True)
class Point:
    """One case of a sweep, and the visual and text tokens that a layer of it sees, mean over layers."""

    case: BenchCase
    tokens: float


def points(case: BenchCase, kind: SweepAxis) -> list[Point]:
    """The cases of a sweep around ``case``, fewest tokens first.

    ``tokens``: text doubles from 32 to what the bundle takes, without images; then 1, 2 and 3 images.
    ``budget``: every plan of the bundle.

    Raises:
        UsageError: The bundle cannot be read or has no such plan.
    """
    bundle = load(case.bundle)
    manifest = bundle.manifest
    plans = {name: entry.plan for name, entry in manifest.plans.items()}
    chosen = bundle.entry(case.plan).plan
    if kind == "budget":
        cases = [replace(case, plan=name, label=name) for name in plans]
    else:
        room = manifest.prompt.text_capacity - case.new_tokens
        texts = [text for text in (32 * 2**step for step in range(_STEPS)) if text <= room] or [room]
        images = [count for count in _IMAGES if count * chosen.units + texts[0] <= manifest.decoder.context]
        shapes = [(0, text) for text in texts] + [(count, texts[0]) for count in images]
        cases = [replace(case, images=i, text=t, label=f"{i} images, {t} text tokens") for i, t in shapes]
    swept = []
    for one in cases:
        keep = plans[one.plan or manifest.default_plan].keep
        swept.append(Point(one, one.text + one.images * sum(keep) / len(keep)))
    return sorted(swept, key=lambda point: point.tokens)


def growth(swept: Sequence[Point], timed: Sequence[Timed]) -> float:
    """Exponent of prefill time over tokens a layer: 1 is linear, 2 quadratic."""
    return exponent([point.tokens for point in swept], [one.stat("prefill_ms").median for one in timed])


_AXIS = {
    "tokens": "tokens a layer, mean over layers (visual and text)",
    "budget": "tokens a layer, mean over layers (visual and text), by plan",
}
_CURVES = (("prefill_ms", "prefill", "o"), ("ttft_ms", "time to first token, images included", "s"))


def curve(swept: Sequence[Point], timed: Sequence[Timed], kind: SweepAxis, machine: Machine) -> bytes:
    """PNG: time over tokens with quartiles, and what the arithmetic alone would take at the machine's matrix rate.

    Raises:
        MachineError: matplotlib is not installed.
    """
    drawn, axes = canvas(7.2, 4.2)
    tokens = [point.tokens for point in swept]
    for metric, name, marker in _CURVES:
        both = [pair for pair in zip(swept, timed, strict=True) if metric == "prefill_ms" or pair[0].case.images]
        stats = [one.stat(metric) for _, one in both]
        middle = [stat.median for stat in stats]
        error = [[s.median - s.low for s in stats], [s.high - s.median for s in stats]]
        x = [point.tokens for point, _ in both]
        axes.errorbar(x, middle, yerr=error, marker=marker, capsize=3, linewidth=1, label=name)
    limit = [1000 * one.facts.prefill_flops / machine.flops for one in timed]
    axes.plot(tokens, limit, "k--", linewidth=1, label="prefill at the measured matrix rate")
    if kind == "budget":
        for point, one in zip(swept, timed, strict=True):
            point_at = (point.tokens, one.stat("ttft_ms").median)
            axes.annotate(one.facts.plan, point_at, xytext=(0, 7), textcoords="offset points", ha="center", fontsize=8)
    axes.set(xlabel=_AXIS[kind], ylabel="milliseconds")
    axes.set_xlim(0, 1.1 * max(tokens))
    axes.set_ylim(bottom=0)
    axes.margins(y=0.12)
    axes.legend(fontsize=8)
    return png(drawn)


def page(swept: Sequence[Point], timed: Sequence[Timed], kind: SweepAxis, machine: Machine) -> str:
    """HTML with the curve and every figure in it.

    Raises:
        MachineError: matplotlib is not installed.
    """
    rows = []
    for point, one in zip(swept, timed, strict=True):
        cells = [one.facts.label, f"{point.tokens:.0f}"]
        for metric in ("vision_ms", "prefill_ms", "ttft_ms", "tokens_per_s"):
            stat = one.stat(metric)
            cells.append(f"{stat.median:.4g} ({stat.low:.4g} to {stat.high:.4g})")
        rows.append((*cells, f"{one.facts.kv_mib:.3g}"))
    heads = ("case", "tokens a layer", "vision ms", "prefill ms", "first token ms", "tokens/s", "KV MiB")
    growing = f"Prefill grows as tokens to the power {growth(swept, timed):.2f}."
    measured = (
        f"This machine: {machine.flops / 1e9:.0f} GFLOP/s in an fp32 matrix product, {machine.bandwidth / 1e9:.1f} GB/s"
        f" read, {machine.threads} threads. Medians, quartiles in brackets."
    )
    body = [f"<h1>Sweep over {'budgets' if kind == 'budget' else 'tokens'}</h1>", f"<p>{measured}</p>"]
    body += [figure(curve(swept, timed, kind, machine), growing), table(heads, rows)]
    return document("Bench", body)
