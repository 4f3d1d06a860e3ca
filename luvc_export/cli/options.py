"""Options and small helpers that several verbs share."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer

from luvc_export.core.files.json_file import read_json
from luvc_export.core.plan import MAX_PLAN_BYTES, Plan
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
            raise PlanError("there is no such plan file", where="--plan", got=plan, fix="luvc-export plan ... -o FILE")
        return Plan.from_json(read_json(path, MAX_PLAN_BYTES, PlanError, "the plan file"), str(path))
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
