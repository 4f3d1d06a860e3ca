"""``luvc-export ablate``."""

from __future__ import annotations

from pathlib import Path

from luvc_export.cli import options
from luvc_export.cli.files import check_folder, check_model
from luvc_export.cli.groups import TaskOptions, learned
from luvc_export.cli.options import grouped
from luvc_export.cli.tables.console import write
from luvc_export.core.options import option
from luvc_export.runtime.session_options import SessionOptions

_GLYPH = TaskOptions("glyph")
_SIDE = 700


@grouped
def ablate(
    *,
    output: Path = option(..., "Folder for tables, plots and measurements.", "-o", "--output"),
    asked: TaskOptions = _GLYPH,
    model: str | None = option(None, "Checkpoint; the task's own by default."),
    count: int = option(2000, "Questions that are reported."),
    side: int = option(_SIDE, "Questions in side sections."),
    search: int = option(420, "Questions that settings are searched on."),
    text: int | None = option(None, "Text tokens in costs; the median prompt's by default."),
    scorer: Path | None = option(None, "Learned scorer, .safetensors, to compare too.", metavar="FILE"),
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
    usual = {"split": None, "count": 2000, "side": _SIDE, "search": 420, "text": None, "scorer": None}
    values = {"split": asked.split, "count": count, "side": side, "search": search, "text": text, "scorer": scorer}
    command += "".join(f" --{name} {value}" for name, value in values.items() if value != usual[name])
    with options.progress(as_json) as tell:
        if task.frames:
            data = clips.ablate(task, output, command, model, count, search, text, opening.threads, tell)
        else:
            data = run(task, output, command, model, count, side, search, text, opening.threads, sha256, tell)
    page, end = (clips.PAGE, "## Searched") if task.frames else ("ablation.md", "## Horizon")
    shown = output / page
    write(as_json, data, lambda: [shown.read_text(encoding="utf-8").split(end)[0]], f"wrote {output}")
