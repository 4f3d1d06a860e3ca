"""One self-contained HTML page of a parity result: no script, no outside file."""

from __future__ import annotations

import base64
from collections.abc import Iterable, Sequence
from html import escape

from luvc_export.calibration.parity import plots
from luvc_export.calibration.parity.locate import LocatedTensor
from luvc_export.calibration.parity.result import ParityResult
from luvc_export.calibration.parity.tolerances import tolerances

_STYLE = (
    "body{font:15px/1.5 system-ui,sans-serif;max-width:62rem;margin:2rem auto;padding:0 1rem;color:#222}"
    "table{border-collapse:collapse;margin:1rem 0;font-size:14px}td,th{border:1px solid #ccc;padding:.2rem .6rem;"
    "text-align:left}.PASSED{color:#156d2c;font-weight:600}.FAILED{color:#b3151f;font-weight:600}img{max-width:100%}"
    "figure{margin:1.5rem 0}figcaption{color:#555}"
)


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


def document(title: str, body: Iterable[str]) -> str:
    """A whole page around ``body``."""
    head = f"<!doctype html><html lang=en><meta charset=utf-8><title>{escape(title)}</title><style>{_STYLE}</style>"
    return head + "\n".join(body) + "</html>\n"


def table(head: Sequence[str], rows: Iterable[Sequence[str]], raw: int = 0) -> str:
    """A table; the first ``raw`` cells of a row are HTML already."""
    lines = ["<table><tr>" + "".join(f"<th>{escape(name)}</th>" for name in head) + "</tr>"]
    for row in rows:
        lines.append("<tr>" + "".join(f"<td>{c if i < raw else escape(c)}</td>" for i, c in enumerate(row)) + "</tr>")
    return "".join([*lines, "</table>"])


def figure(png: bytes, caption: str) -> str:
    """An inline picture with its caption."""
    data = base64.b64encode(png).decode()
    alt = escape(caption)
    return f'<figure><img alt="{alt}" src="data:image/png;base64,{data}"><figcaption>{alt}</figcaption></figure>'


def _step(step: LocatedTensor) -> tuple[str, ...]:
    errors = (step.rel_l2, step.worst_row, step.max_abs)
    return (step.tensor, *(f"{e:.3g}" for e in errors), f"{step.cosine:.9g}", str(step.nonfinite), str(step.case))


def _verdict(passed: bool) -> str:
    name = "PASSED" if passed else "FAILED"
    return f"<span class={name}>{name}</span>"
