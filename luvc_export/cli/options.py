"""Options that several verbs share, and commands whose parameters are records of them.

Typer sees the options, the command gets the record: an option has one name, one help and one meaning in every verb that
takes its record (``core.options``).
"""

from __future__ import annotations

import functools
import inspect
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import Field, is_dataclass
from pathlib import Path
from typing import Annotated, Any, get_args, get_origin, get_type_hints

import typer

from luvc_export.core.options import Asked, asked_by, asked_of
from luvc_export.core.plan import Plan, read_plan
from luvc_export.errors import PlanError, shown

ImageSize = Annotated[
    str | None, typer.Option("--image-size", metavar="HxW", help="Image input; default: the family's, or 672x672.")
]
Model = Annotated[str, typer.Argument(help="Checkpoint folder, hub id, or demo for the bundled model.")]
Bundle = Annotated[Path, typer.Argument(help="Bundle folder.")]
Bundles = Annotated[list[str], typer.Argument(metavar="BUNDLE...", help="Bundle folder, or FOLDER#PLAN; several.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON for machines.")]
#: Budgets of a plan; those below 0 are refused as budgets, not as an unknown name.
_BUDGETS = re.compile(r"[\s,]*-?\d+(?:[\s,]+-?\d+)*[\s,]*")


def plan_source(plan: str) -> str | list[int] | Plan:
    """What a user named with ``--plan``: a schedule, budgets, or the plan in a file.

    Raises:
        PlanError: There is no such file, or it holds no plan.
    """
    if plan.endswith(".json"):
        path = Path(plan)
        if not path.is_file():
            what = "a folder is no plan" if path.is_dir() else "there is no such plan file"
            raise PlanError(what, where="--plan", got=plan, fix="luvc-export plan ... -o FILE")
        return read_plan(path)
    return [int(part) for part in re.split(r"[\s,]+", plan) if part] if _BUDGETS.fullmatch(plan) else plan


@contextmanager
def progress(quiet: bool) -> Iterator[Any]:
    """A progress callback (stage, fraction) drawn on stderr, or one that does nothing."""
    if quiet:
        yield lambda stage, done: None
        return
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    from luvc_export.cli.tables import console as consoles

    columns = (TextColumn("{task.description:<34}", markup=False), BarColumn(), TimeElapsedColumn())
    bar = Progress(*columns, console=consoles.console(stderr=True))
    tasks: dict[str, Any] = {}

    def tell(stage: str, done: float) -> None:
        if stage not in tasks:
            bar.start()  # here and not before: an empty bar leaves an empty line
            tasks[stage] = bar.add_task(shown(stage), total=1.0)
        bar.update(tasks[stage], completed=done)

    try:
        yield tell
    finally:
        if tasks:
            bar.stop()


def plan_name(plan: str) -> str:
    """Name of a plan in the bundle: the schedule, the file's stem, or ``list``."""
    if plan.endswith(".json"):
        return re.sub(r"[^\w.-]", "-", Path(plan).stem)
    return "list" if _BUDGETS.fullmatch(plan) else plan


def grouped(command: Callable[..., None]) -> Callable[..., None]:
    """``command`` as typer reads it: in place of every parameter that is a record, the options that its verb asks for.

    A parameter's own default (an instance of the record) replaces the record's defaults. A parameter of type
    ``Annotated[dict, Record]`` gets those values that the command line says, by the names of the record's fields.
    A parameter whose default is an ``option`` is that option.
    """
    hints: dict[str, Any] = get_type_hints(command, include_extras=True)
    records: dict[str, tuple[Callable[..., Any], list[Asked], bool]] = {}
    single: dict[str, Asked] = {}
    flat: list[inspect.Parameter] = []
    for name, parameter in inspect.signature(command).parameters.items():
        kind: Any = hints[name]
        by_name = get_origin(kind) is Annotated and is_dataclass(get_args(kind)[1])
        record = get_args(kind)[1] if by_name else kind
        if isinstance(parameter.default, Field):
            single[name] = asked_by(parameter.default, name, kind)
            flat.append(_parameter(single[name], name))
        elif isinstance(record, type) and is_dataclass(record):
            base = None if parameter.default is inspect.Parameter.empty else parameter.default
            asked = asked_of(record, command.__name__, base)
            records[name] = (dict if by_name else record, asked, by_name)
            flat += [_parameter(each, each.parameter, by_name) for each in asked]
        else:
            flat.append(parameter.replace(annotation=kind, kind=inspect.Parameter.KEYWORD_ONLY))

    @functools.wraps(command)
    def called(**values: Any) -> None:
        for name, (make, asked, by_name) in records.items():
            written = {each: values.pop(each.parameter) for each in asked}
            fields = {
                each.name: each.value(value) for each, value in written.items() if not (by_name and _unsaid(value))
            }
            values[name] = make(**fields)
        command(**values | {name: asked.value(values[name]) for name, asked in single.items()})

    del called.__wrapped__  # typer would read its signature
    called.__signature__ = inspect.Signature(flat)  # type: ignore[attr-defined]
    called.__annotations__ = {each.name: each.annotation for each in flat}
    return called


def stated(context: typer.Context, *records: type) -> list[Asked]:
    """Options of ``records`` that the command line says."""
    verb = str(context.info_name).replace("-", "_")
    every = [each for record in records for each in asked_of(record, verb)]
    return [each for each in every if given(context, each.parameter)]


def given(context: typer.Context, name: str) -> bool:
    """The command line says parameter ``name``."""
    return getattr(context.get_parameter_source(name), "name", None) == "COMMANDLINE"


def _unsaid(value: Any) -> bool:
    """The command line has not this option."""
    return value is None or value is False or value == []


def _parameter(asked: Asked, name: str, by_name: bool = False) -> inspect.Parameter:
    described, kind, default = asked.option, asked.kind, asked.default
    how: dict[str, Any] = {"help": described.help, "metavar": described.metavar}
    how |= {"min": described.least, "max": described.most}
    if by_name and kind is not bool:
        kind, default = kind | None, None
    if described.argument:
        info = typer.Argument(**how)
    else:
        names = described.flags or (asked.flag,)
        info = typer.Option(*names, is_eager=described.eager, callback=described.callback, **how)
    empty = inspect.Parameter.empty if default is ... else default
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=empty, annotation=Annotated[kind, info])
