"""Surgery reports as rich tables, or as one HTML page that needs nothing else."""

from __future__ import annotations

from html import escape

from rich.console import Group
from rich.table import Table

from luvc_export.export.surgeon.report import GraphReport

Reports = dict[str, list[GraphReport]]

_STYLE = (
    "body{font:14px system-ui;margin:2em auto;max-width:72em;color:#222;background:#fff}table{border-collapse:collapse;"
    "margin:.5em 0 1.5em}th,td{padding:.2em .8em;border-bottom:1px solid #ddd;text-align:left}td.n{text-align:right;"
    "font-variant-numeric:tabular-nums}.bar{background:#76a;height:.8em;display:inline-block}.off{color:#888}"
    "@media(prefers-color-scheme:dark){body{color:#ddd;background:#181818}th,td{border-color:#444}}"
)


def render(reports: Reports) -> Group:
    """Tables of passes, operators and layers for each graph, for a rich console."""
    parts: list[Table] = []
    for name, history in reports.items():
        for report in history:
            parts += [_passes(name, report), _operators(report), _layers(report)]
    return Group(*parts)


def render_html(reports: Reports) -> str:
    """One self-contained page: the same tables, and bars for FLOPs by layer."""
    parts = []
    for name, history in reports.items():
        for report in history:
            parts.append(f"<h2>{escape(name)} <small>for {escape(report.target)}</small></h2>")
            rows = [
                f"<tr{'' if item.fired else ' class=off'}><td>{escape(item.name)}<td class=n>{item.fired}"
                f"<td class=n>{item.before}<td class=n>{item.after}<td>{escape(item.reason)}"
                for item in report.passes
            ]
            parts.append(_html(("pass", "fired", "nodes before", "after", "why not, or what was left"), rows))
            names = sorted({*report.operators_before, *report.operators_after})
            rows = [
                f"<tr><td>{escape(op)}<td class=n>{report.operators_before.get(op, 0)}"
                f"<td class=n>{report.operators_after.get(op, 0)}"
                for op in names
            ]
            parts.append(_html(("operator", "before", "after"), rows))
            top = max((row["flops"] for row in report.layers), default=0) or 1
            rows = [
                f"<tr><td>{escape(str(row['layer']))}<td class=n>{row['nodes']}<td class=n>{row['flops'] / 1e6:.1f}"
                f"<td class=n>{row['weight_bytes'] / 2**20:.2f}<td class=n>{row['activation_bytes'] / 2**20:.2f}"
                f"<td><span class=bar style='width:{12 * row['flops'] / top:.2f}em'></span>"
                for row in report.layers
            ]
            parts.append(_html(("layer", "nodes", "MFLOP", "weights MiB", "activations MiB", ""), rows))
    body = "\n".join(parts)
    return (
        f"<!doctype html><html lang=en><meta charset=utf-8><title>Graph surgery</title><style>{_STYLE}</style>"
        f"<h1>Graph surgery</h1>\n{body}</html>\n"
    )


def _html(heads: tuple[str, ...], rows: list[str]) -> str:
    head = "".join(f"<th>{escape(item)}" for item in heads)
    return f"<table><tr>{head}\n" + "\n".join(rows) + "\n</table>"


def _passes(name: str, report: GraphReport) -> Table:
    table = Table("pass", "fired", "before", "after", "why not, or what was left", title=f"{name} for {report.target}")
    for item in report.passes:
        style = None if item.fired else "dim"
        table.add_row(item.name, str(item.fired), str(item.before), str(item.after), item.reason, style=style)
    return table


def _operators(report: GraphReport) -> Table:
    table = Table("operator", "before", "after")
    for op in sorted({*report.operators_before, *report.operators_after}):
        table.add_row(op, str(report.operators_before.get(op, 0)), str(report.operators_after.get(op, 0)))
    return table


def _layers(report: GraphReport) -> Table:
    table = Table("layer", "nodes", "MFLOP", "weights MiB", "activations MiB")
    for row in report.layers:
        flops, weights, activations = row["flops"], row["weight_bytes"], row["activation_bytes"]
        table.add_row(
            str(row["layer"]),
            str(row["nodes"]),
            f"{flops / 1e6:.1f}",
            f"{weights / 2**20:.2f}",
            f"{activations / 2**20:.2f}",
        )
    return table
