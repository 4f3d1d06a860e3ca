"""``luvc-export targets``."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Annotated, Any

import typer

from luvc_export.cli import options
from luvc_export.core.target import Target


def targets(
    name: Annotated[str | None, typer.Argument(help="Show one target, each value with its source.")] = None,
    as_json: options.Json = False,
) -> None:
    """List the devices engines can be built for, and what of it this machine can do.

    [dim]luvc-export targets
    luvc-export targets jetson-agx-orin-jp62[/dim]
    """
    from luvc_export.engines import library
    from luvc_export.engines import targets as records

    found = [records.find(name)] if name else [records.find(each) for each in records.names()]
    here = {target.name: library.why_not(target) for target in found}
    if as_json:
        print(json.dumps([_data(target, here[target.name]) for target in found]))
        return
    from luvc_export.cli.tables import console as consoles

    console: Any = consoles.console()
    console.print(_one(found[0]) if name else _table(found, here))
    if name:
        console.print(f"here: {here[found[0].name] or 'usable'}")


def _data(target: Target, reason: str | None) -> dict[str, Any]:
    spec = {**asdict(target.spec), "plugins": sorted(target.spec.plugins)}
    return {**asdict(target), "spec": spec, "usable": reason is None, "why_not": reason}


def _table(found: list[Target], here: dict[str, str | None]) -> Any:
    from rich.table import Table

    from luvc_export.cli.tables import console as consoles

    table = Table(caption="each value with its source: luvc-export targets NAME")
    for column in ("target", "library", "SM", "memory GiB", "graphs", "quantised", "here"):
        table.add_column(column, overflow="fold", no_wrap=column == "target")
    for target in found:
        reason = here[target.name]
        table.add_row(
            target.name,
            target.library.range,
            target.device.compute_capability or "",
            ", ".join(map(str, target.device.memory_gib)),
            target.spec.dialect,
            ", ".join(target.quantised),
            consoles.styled(*((("usable", "green"),) if reason is None else (("no", "yellow"), f": {reason}"))),
        )
    return table


def _one(target: Target) -> Any:
    from rich.table import Table

    table = Table(title=f"{target.name}: {target.title}")
    for column in ("field", "value", "source"):
        table.add_column(column, overflow="fold")
    parts = {"spec": asdict(target.spec), "library": asdict(target.library), "device": asdict(target.device)}
    rows: dict[str, object] = {f"{part}.{name}": value for part, made in parts.items() for name, value in made.items()}
    rows |= {"kv_forms": target.kv_forms, "quantised": target.quantised}
    for field, value in rows.items():
        source = target.sources.get(field) or target.sources.get(field.split(".")[0], "")
        if value not in (None, (), frozenset()):
            table.add_row(field, _text(value), source)
    return table


def _text(value: object) -> str:
    if isinstance(value, (tuple, frozenset)):
        inner = [".".join(map(str, item)) if isinstance(item, tuple) else str(item) for item in value]
        return ", ".join(inner)
    return str(value)
