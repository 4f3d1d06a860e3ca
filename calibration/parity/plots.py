"""A parity result as plots, PNG bytes, and as a page. matplotlib's object interface: no global state, no display."""

from __future__ import annotations

import io
from collections.abc import Sequence
from html import escape
from typing import Any

import numpy as np
from PIL import Image

from luvc_export.calibration.intervals import accuracy
from luvc_export.calibration.parity.compare import Comparison
from luvc_export.calibration.parity.result import LocatedTensor, ParityResult
from luvc_export.calibration.parity.tolerances import Tolerances, tolerances
from luvc_export.core.files.html import document, figure, table
from luvc_export.core.plan import Plan
from luvc_export.errors import MachineError
from luvc_export.runtime.media.token_visualisation import draw

_FLOOR = 1e-9


def canvas(width: float = 7.2, height: float = 3.2) -> tuple[Any, Any]:
    """A figure and its one pair of axes.

    Raises:
        MachineError: matplotlib is not installed.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise MachineError("plots need matplotlib", got=str(error), fix="pip install 'luvc-export[report]'") from error
    figure = Figure(figsize=(width, height), layout="constrained")
    axes = figure.subplots()
    axes.grid(alpha=0.3)
    return figure, axes


def png(figure: Any) -> bytes:
    """A figure as PNG, the same bytes for the same figure."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=110, metadata={"Software": None})
    return buffer.getvalue()


def error_bars(intervals: Sequence[Any]) -> list[list[float]]:
    """How far intervals (``value``, ``low``, ``high``) reach below and above, as ``errorbar`` takes them."""
    return [[each.value - each.low for each in intervals], [each.high - each.value for each in intervals]]


def error_by_layer(steps: Sequence[LocatedTensor], limit: Tolerances) -> bytes:
    """Relative L2 error of every tensor, worst case, against its limit."""
    figure, axes = canvas()
    for part, marker in (("in", "o"), ("key", "^"), ("value", "v")):
        some = [(i, step) for i, step in enumerate(steps) if step.tensor.endswith(f" {part}")]
        if some:
            heights = [_height(step) for _, step in some]
            axes.plot(
                [i for i, _ in some],
                heights,
                marker=marker,
                linewidth=0.8,
                label=f"hidden state {part}" if part == "in" else part,
            )
    ends = [(i, step) for i, step in enumerate(steps) if " " not in step.tensor]
    axes.plot([i for i, _ in ends], [_height(step) for _, step in ends], "ks", label="vision, logits")
    axes.axhline(limit.rel_l2.value, color="crimson", linestyle="--", label="limit")
    marks = [(i, step.tensor.split()[1]) for i, step in enumerate(steps) if step.tensor.endswith(" key")]
    axes.set_xticks([i for i, _ in marks], [name for _, name in marks])
    axes.set(yscale="log", xlabel="layer", ylabel="relative L2 error, worst case")
    axes.legend(fontsize=8, ncols=3)
    return png(figure)


def _height(step: LocatedTensor) -> float:
    return 10.0 if not np.isfinite(step.rel_l2) else max(step.rel_l2, _FLOOR)


def kept_tokens(comparison: Comparison) -> bytes | None:
    """What merges and which tokens survive in the example's first picture; None where the candidate cannot tell."""
    if comparison.example is None or comparison.example[1].merged_into is None:
        return None
    _, seen = comparison.example
    assert seen.merged_into is not None
    assert seen.first is not None
    plan = comparison.candidate.plan
    kept = {layer: indices[0][indices[0] < plan.vision_tokens] for layer, indices in seen.kept.items()}
    kept |= {layer: np.zeros(0, np.int64) for layer, _, keep in plan.prunes if keep == 0}
    means = [layer for layer, _, _ in plan.chooses] if plan.llm.aggregate else []
    sheet = draw(seen.first, plan.grid, seen.merged_into[0], kept, panel=240, means=means)
    buffer = io.BytesIO()
    sheet.quantize(128, Image.Quantize.MEDIANCUT).save(buffer, format="PNG")
    return buffer.getvalue()


def accuracy_by_budget(comparison: Comparison) -> bytes | None:
    """Accuracy of both models against mean visual tokens a layer, with 95 % intervals; None without right answers."""
    if not comparison.answered or not comparison.known:
        return None
    figure, axes = canvas(4.8)
    pictures = [item.picture for item in comparison.answered]
    for who, marker in (("reference", "o"), ("candidate", "s")):
        interval = accuracy(comparison.right(who), pictures)
        tokens = mean_tokens(getattr(comparison, who).plan)
        axes.errorbar([tokens], [interval.value], yerr=error_bars([interval]), fmt=marker, capsize=4, label=who)
    axes.set(xlabel="visual tokens a layer, mean", ylabel="accuracy")
    axes.set_xlim(left=0)
    axes.legend()
    return png(figure)


def mean_tokens(plan: Plan) -> float:
    """Visual tokens an image has in a layer, on average over layers."""
    return sum(plan.keep) / plan.layers


def page(result: ParityResult) -> str:
    """The page as text.

    Raises:
        MachineError: matplotlib is not installed.
    """
    comparison = result.comparison
    limit = tolerances(comparison.reference.dtype, comparison.candidate.dtype)
    body = [f"<h1>Parity: {_verdict(result.passed)}</h1>"]
    body.append(table(("", "model", "arithmetic"), (
        ("reference", comparison.reference.name, comparison.reference.dtype),
        ("candidate", comparison.candidate.name, comparison.candidate.dtype),
    )))  # fmt: skip
    body += [f"<p>{escape(note)}</p>" for note in comparison.notes]
    if result.located:
        body.append(
            f"<p>First departs: <b>{escape(result.located.tensor)}</b>. Look at {escape(result.located.suspect)}.</p>"
        )
    body.append("<h2>Gates</h2>")
    rows = [
        (
            _verdict(gate.passed),
            gate.level,
            gate.name,
            f"{gate.got:.6g}",
            f"{'<=' if gate.high else '>='} {gate.limit:.6g}",
            gate.where,
            gate.why,
        )
        for gate in result.gates
    ]
    body.append(table(("", "level", "gate", "got", "limit", "worst", "why this limit"), rows, raw=1))
    if result.steps:
        body.append(figure(error_by_layer(result.steps, limit), "Error by layer, worst case over every element."))
    picture = kept_tokens(comparison)
    if picture:
        body.append(figure(picture, "What merges, and which visual tokens survive, in the first case's picture."))
    budget = accuracy_by_budget(comparison)
    if budget:
        body.append(figure(budget, "Accuracy against budget, with 95 % intervals clustered by picture."))
    body.append("<h2>Answers that differ</h2>")
    differ = [item for item in comparison.answered if item.diverged is not None][:50]
    answer_rows = [
        (i.prompt, i.right or "", i.reference.text, i.candidate.text, str(i.diverged), str(i.edits)) for i in differ
    ]
    heads = ("prompt", "right", "reference", "candidate", "first token", "edits")
    body.append(table(heads, answer_rows) if answer_rows else "<p>None.</p>")
    body.append("<h2>Every tensor</h2>")
    columns = ("tensor", "relative L2", "worst row", "largest", "cosine", "not finite", "worst case")
    body.append(table(columns, [_step(step) for step in result.steps]))
    return document("Parity report", body)


def _step(step: LocatedTensor) -> tuple[str, ...]:
    errors = (step.rel_l2, step.worst_row, step.max_abs)
    return (step.tensor, *(f"{e:.3g}" for e in errors), f"{step.cosine:.9g}", str(step.nonfinite), str(step.case))


def _verdict(passed: bool) -> str:
    name = "PASSED" if passed else "FAILED"
    return f"<span class={name}>{name}</span>"
