"""A parity result as a page."""

from __future__ import annotations

from html import escape

from luvc_export.calibration.parity import plots
from luvc_export.calibration.parity.locate import LocatedTensor
from luvc_export.calibration.parity.result import ParityResult
from luvc_export.calibration.parity.tolerances import tolerances
from luvc_export.core.files.html import document, figure, table


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
        body.append(figure(plots.error_by_layer(result.steps, limit), "Error by layer, worst case over every element."))
    picture = plots.kept_tokens(comparison)
    if picture:
        body.append(figure(picture, "What merges, and which visual tokens survive, in the first case's picture."))
    budget = plots.accuracy_by_budget(comparison)
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
