"""``luvc-export ablate``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from luvc_export.cli import options
from luvc_export.cli.files import check_folder, check_model
from luvc_export.cli.grouped import grouped
from luvc_export.cli.groups import TaskOptions, learned
from luvc_export.runtime.session_options import SessionOptions

_GLYPH = TaskOptions("glyph")
_SIDE = 700


@grouped
def ablate(
    *,
    output: Annotated[Path, typer.Option("-o", "--output", help="Folder for tables, plots and measurements.")],
    asked: TaskOptions = _GLYPH,
    model: Annotated[str | None, typer.Option("--model", help="Checkpoint; the task's own by default.")] = None,
    count: Annotated[int, typer.Option("--count", help="Questions that are reported.")] = 2000,
    side: Annotated[int, typer.Option("--side", help="Questions in side sections.")] = _SIDE,
    search: Annotated[int, typer.Option("--search", help="Questions that settings are searched on.")] = 420,
    text: Annotated[
        int | None, typer.Option("--text", help="Text tokens in costs; the median prompt's by default.")
    ] = None,
    scorer: Annotated[
        Path | None, typer.Option("--scorer", metavar="FILE", help="Learned scorer, .safetensors, to compare too.")
    ] = None,
    opening: SessionOptions,
    as_json: options.Json = False,
) -> None:
    """Compare every way to prune or merge on one task, settings searched on another split; write tables and plots.

    A run that was interrupted goes on where it stopped when the same command is given again. Of a task about films it
    compares scores, quotas and named plans for whole clips.

    [dim]luvc-export ablate --task glyph -o docs/results
    luvc-export ablate --task glyph-clips -o runs/clips --count 600[/dim]
    """
    from luvc_export.calibration.ablation import clips
    from luvc_export.calibration.ablation.run import ablate as run
    from luvc_export.errors import UsageError

    task = asked.found()
    assert task is not None
    if min(count, side, search, 1 if text is None else text) < 1 or (side > count and not task.frames):
        raise UsageError("numbers must be at least 1, and --side at most --count", where="ablate")
    if task.frames and (side != _SIDE or scorer is not None):
        raise UsageError(
            "a task about films has no side sections and learns no scorer",
            where=f"ablate --task {asked.task}",
            fix="leave out --side and --scorer",
        )
    check_folder(output, "--output")
    if model is not None:
        check_model(model)
    sha256 = "" if scorer is None else learned(None, scorer)[1]
    command = f"luvc-export ablate --task {asked.task} -o {output}"
    usual: list[tuple[str, object, object]] = [
        ("--split", asked.split, None),
        ("--count", count, 2000),
        ("--side", side, _SIDE),
    ]
    usual += [("--search", search, 420), ("--text", text, None), ("--scorer", scorer, None)]
    command += "".join(f" {flag} {value}" for flag, value, default in usual if value != default)
    with options.progress(quiet=as_json) as tell:
        if task.frames:
            data = clips.ablate(task, output, command, model, count, search, text, opening.threads, tell)
        else:
            data = run(task, output, command, model, count, side, search, text, opening.threads, sha256, tell)
    if as_json:
        print(json.dumps(data))
    else:
        page, end = (clips.PAGE, "## Searched") if task.frames else ("ablation.md", "## Horizon")
        print((output / page).read_text(encoding="utf-8").split(end)[0])
        print(f"wrote {output}")
