"""What surgery did to a graph: one record a pass, operators before and after, work by layer, as JSON in ONNX.

Reports are shown as rich tables, or as one HTML page that needs nothing else.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from html import escape
from typing import Any

import onnx
from rich.console import Group
from rich.table import Table

from luvc_export.bundle.folder import Bundle
from luvc_export.bundle.graphs import read_graph
from luvc_export.errors import BundleError

#: Metadata key of the JSON list of reports in a graph.
REPORT_KEY = "luvc.surgery"


@dataclass(frozen=True)
class PassReport:
    """What one pass did.

    Attributes:
        name: The pass.
        fired: How often it changed the graph.
        reason: Why it did not fire, or what it left alone.
        before: Nodes before it (Constant, Identity and folded weight expressions left out).
        after: Nodes after it.
    """

    name: str
    fired: int
    reason: str
    before: int
    after: int


@dataclass(frozen=True)
class GraphReport:
    """Surgery on one graph.

    Attributes:
        target: Name of the target it was made for.
        passes: In the order they ran.
        operators_before: Nodes by operator in the traced graph.
        operators_after: Nodes by operator now.
        layers: FLOPs and bytes by layer, one image and 64 text tokens where sizes are symbolic.
    """

    target: str
    passes: tuple[PassReport, ...]
    operators_before: dict[str, int]
    operators_after: dict[str, int]
    layers: tuple[dict[str, Any], ...] = field(default=())

    def to_json(self) -> dict[str, Any]:
        """Plain data."""
        return dataclasses.asdict(self)

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> GraphReport:
        """The inverse of ``to_json``."""
        passes = tuple(PassReport(**item) for item in data["passes"])
        return cls(
            data["target"], passes, data["operators_before"], data["operators_after"], tuple(data.get("layers", ()))
        )


def histogram(model: onnx.ModelProto) -> dict[str, int]:
    """Nodes by operator, most frequent first; fused operators carry their domain."""
    counts: dict[str, int] = {}
    for node in model.graph.node:
        name = f"{node.domain}::{node.op_type}" if node.domain else node.op_type
        counts[name] = counts.get(name, 0) + 1
    return dict(sorted(counts.items(), key=lambda item: (-item[1], item[0])))


def surgery_report(bundle: Bundle) -> dict[str, list[GraphReport]]:
    """Reports of every graph of a bundle, by file name, the latest surgery last; graphs without any are left out.

    Raises:
        BundleError: A report cannot be read.
    """
    reports = {}
    for plan, entry in bundle.manifest.plans.items():
        finished = sorted(file for one in bundle.manifest.sets if one.plan == plan for file in one.files)
        for name in dict.fromkeys(filter(None, (entry.vision, entry.decoder, entry.decoder_debug, *finished))):
            model = onnx.load_model_from_string(read_graph(bundle, name).data)
            text = {item.key: item.value for item in model.metadata_props}.get(REPORT_KEY)
            if text is None:
                continue
            try:
                reports[name] = [GraphReport.from_json(item) for item in json.loads(text)]
            except (ValueError, KeyError, TypeError) as error:
                raise BundleError("a surgery report cannot be read", where=name, got=str(error)) from error
    return reports


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
            passes = Table("pass", "fired", "before", *_PASSES[3:], title=f"{name} for {report.target}")
            for item, row in zip(report.passes, _passes(report), strict=True):
                passes.add_row(*row, style=None if item.fired else "dim")
            operators, layers = Table(*_OPERATORS), Table(*_LAYERS)
            for table, rows in ((operators, _operators(report)), (layers, _layers(report))):
                for row in rows:
                    table.add_row(*row)
            parts += [passes, operators, layers]
    return Group(*parts)


def render_html(reports: Reports) -> str:
    """One self-contained page: the same tables, and bars for FLOPs by layer."""
    parts = []
    for name, history in reports.items():
        for report in history:
            parts.append(f"<h2>{escape(name)} <small>for {escape(report.target)}</small></h2>")
            off = ["" if item.fired else " class=off" for item in report.passes]
            lines = [_line(row, 3, style) for row, style in zip(_passes(report), off, strict=True)]
            parts += [_html(_PASSES, lines), _html(_OPERATORS, [_line(row, 2) for row in _operators(report)])]
            top = max((row["flops"] for row in report.layers), default=0) or 1
            bars = [f"<span class=bar style='width:{12 * row['flops'] / top:.2f}em'></span>" for row in report.layers]
            lines = [f"{_line(row, 4)}<td>{bar}" for row, bar in zip(_layers(report), bars, strict=True)]
            parts.append(_html((*_LAYERS, ""), lines))
    body = "\n".join(parts)
    return (
        f"<!doctype html><html lang=en><meta charset=utf-8><title>Graph surgery</title><style>{_STYLE}</style>"
        f"<h1>Graph surgery</h1>\n{body}</html>\n"
    )


def _html(heads: Sequence[str], lines: list[str]) -> str:
    head = "".join(f"<th>{escape(item)}" for item in heads)
    return f"<table><tr>{head}\n" + "\n".join(lines) + "\n</table>"


def _line(cells: Sequence[str], numbers: int, style: str = "") -> str:
    """A row of an HTML table whose first cell names it, and ``numbers`` cells behind that hold numbers."""
    kinds = ["", *[" class=n"] * numbers, *[""] * len(cells)]
    return f"<tr{style}>" + "".join(f"<td{kind}>{escape(cell)}" for kind, cell in zip(kinds, cells, strict=False))


_PASSES = ("pass", "fired", "nodes before", "after", "why not, or what was left")
_OPERATORS = ("operator", "before", "after")
_LAYERS = ("layer", "nodes", "MFLOP", "weights MiB", "activations MiB")


def _passes(report: GraphReport) -> list[tuple[str, ...]]:
    return [(item.name, str(item.fired), str(item.before), str(item.after), item.reason) for item in report.passes]


def _operators(report: GraphReport) -> list[tuple[str, ...]]:
    before, after = report.operators_before, report.operators_after
    return [(op, str(before.get(op, 0)), str(after.get(op, 0))) for op in sorted({*before, *after})]


def _layers(report: GraphReport) -> list[tuple[str, ...]]:
    rows = []
    for row in report.layers:
        sizes = (f"{row[name] / 2**20:.2f}" for name in ("weight_bytes", "activation_bytes"))
        rows.append((str(row["layer"]), str(row["nodes"]), f"{row['flops'] / 1e6:.1f}", *sizes))
    return rows
