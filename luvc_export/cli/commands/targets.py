"""``luvc-export targets``."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from luvc_export.cli import options
from luvc_export.cli.options import grouped
from luvc_export.cli.tables.console import console, write
from luvc_export.core.options import option
from luvc_export.core.target import Target


@grouped
def targets(
    *,
    name: str | None = option(None, "Show one target, each value with its source.", argument=True),
    as_json: options.Json = False,
) -> None:
    """List the devices engines can be built for, and what of it this machine can do.

    [dim]luvc-export targets
    luvc-export targets jetson-agx-orin-jp62[/dim]
    """
    from luvc_export.engines import library
    from luvc_export.engines import targets as records

    chosen = [records.find(name)] if name else [records.find(each) for each in records.names()]
    here = {target.name: library.why_not(target) for target in chosen}
    one = f"{_one(chosen[0])}\n{'here':26} {here[chosen[0].name] or _USABLE}"
    data = [_data(target, here[target.name]) for target in chosen]
    write(as_json, data, one if name else lambda: [_table(chosen, here, console().width)])


def _data(target: Target, reason: str | None) -> dict[str, Any]:
    spec = {**asdict(target.spec), "plugins": sorted(target.spec.plugins)}
    return {**asdict(target), "spec": spec, "graphs": [*target.graphs], "usable": reason is None, "why_not": reason}


def _table(listed: list[Target], here: dict[str, str | None], room: int) -> Any:
    """A line a target where ``room`` columns are enough; else columns as wide as their longest word, the last the rest.

    So no word is broken at 80 columns.
    """
    from rich.table import Table
    from rich.text import Text

    head = ("target", "library", "SM", "memory GiB", "graphs", "quantised", "here")
    rows = [head, *(_row(target, here[target.name]) for target in listed)]
    table = Table(
        box=None,
        padding=(0, 1, 0, 0),
        pad_edge=False,
        row_styles=("", "dim"),
        caption="each value with its source: luvc-export targets NAME",
    )
    columns = [*zip(*rows, strict=True)]
    wide = sum(max(map(len, cells)) + 1 for cells in columns) <= room
    for column, cells in zip(head, columns, strict=True):
        longest = max(len(word) for cell in cells for word in cell.split())
        table.add_column(column, width=None if wide or column == head[-1] else longest)
    for row in rows[1:]:
        table.add_row(*row[:-1], Text(row[-1], style="green" if row[-1] == _USABLE else "yellow"))
    return table


_USABLE = "usable"


def _row(target: Target, reason: str | None) -> tuple[str, ...]:
    return (
        target.name,
        target.library.range,
        target.device.compute_capability or "",
        ", ".join(map(str, target.device.memory_gib)),
        target.spec.dialect,
        ", ".join(target.quantised),
        _USABLE if reason is None else f"no: {reason}",
    )


def _one(target: Target) -> str:
    """A line for each value, with where it is from below it: addresses stay whole."""
    parts = {"spec": asdict(target.spec), "library": asdict(target.library), "device": asdict(target.device)}
    rows: dict[str, object] = {
        f"{part}.{name}": value for part, values in parts.items() for name, value in values.items()
    }
    rows |= {"kv_forms": target.kv_forms, "quantised": target.quantised, "graphs": (*target.graphs,)}
    lines = [f"{target.name}: {target.title}", ""]
    for field, value in rows.items():
        source = target.sources.get(field) or target.sources.get(field.split(".")[0])
        if value not in (None, (), frozenset()):
            lines += [f"{field:26} {_text(value)}", *([f"{'':8}{source}"] if source else [])]
    return "\n".join(lines)


def _text(value: object) -> str:
    if isinstance(value, (tuple, frozenset)):
        inner = [".".join(map(str, item)) if isinstance(item, tuple) else str(item) for item in value]
        return ", ".join(inner)
    return str(value)
