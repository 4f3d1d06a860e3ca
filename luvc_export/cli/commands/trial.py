"""``luvc-export trial``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from luvc_export.cli import options
from luvc_export.cli.files import check_folder, check_model, write_whole
from luvc_export.cli.groups import SizeOptions
from luvc_export.cli.options import grouped
from luvc_export.cli.tables.console import styled, table, write
from luvc_export.core.options import option
from luvc_export.errors import CheckFailed, UsageError


@grouped
def trial(
    *,
    model: options.Model,
    target: str | None = option(None, "Whose engines; default: this GPU's, else what can be built here."),
    out: Path = option(Path("trial-out"), "Folder; a trial that was interrupted goes on there.", "-o", "--out"),
    minutes: float = option(30.0, "End inside so many minutes."),
    only: tuple[str, ...] = option((), "Only this step; repeat."),
    dry_run: bool = option(False, "Say what would be done, and how long."),
    canvas: SizeOptions,
    as_json: options.Json = False,
) -> None:
    """Try on this machine what this tool promises, and write a report to send.

    Export, parity, times with and without compression, engines where their library and device are. The report names no
    file, host, user or checkpoint. What to send: docs/trial.md.

    [dim]luvc-export trial Qwen/Qwen2.5-VL-3B-Instruct --minutes 30
    luvc-export trial demo --dry-run[/dim]
    """
    from luvc_export.demo import checkpoint_named
    from luvc_export.engines import targets
    from luvc_export.trial import machine, report, run
    from luvc_export.trial.report import page
    from luvc_export.trial.steps import Asked

    if minutes <= 0:
        raise UsageError("a trial needs time", where="--minutes", got=minutes, expected="more than 0")
    sized = canvas.words()
    model = checkpoint_named(model)
    check_model(model)
    check_folder(out, "--out")
    if target is not None and targets.find(target).library.backend not in ("tensorrt", "tensorrt_rtx"):
        raise UsageError(
            "a trial builds engines, and this target has none",
            where=f"--target {target}",
            fix="leave it out: the bundle's own graphs are tried in any case",
        )
    asked = Asked(model, target or machine.target_here(), out, sized)
    if dry_run:
        _say_plan(run.planned(asked, only), minutes, as_json)
        return
    with options.progress(as_json) as tell:
        journal = run.run(asked, minutes, only, tell)
    summary = report.make(journal)
    write_whole(out / "report.json", json.dumps(summary, indent=1) + "\n")
    write_whole(out / "report.html", page(summary, out / "kept.png"))
    colours = {"holds": "green", "fails": "red", "not tried": "dim"}
    rows = ((styled((e["verdict"], colours[e["verdict"]])), e["says"], e["figure"]) for e in summary["verdicts"])
    promises = table(rows, "", "promise", "figure, or why it was not tried")
    files = f"wrote {out / 'report.json'} and {out / 'report.html'}"
    write(as_json, summary, promises, f"{files}; docs/trial.md says what to do with them")
    failed = [line["claim"] for line in summary["verdicts"] if line["verdict"] == "fails"]
    if failed:
        raise CheckFailed("the trial found what does not hold", where=str(out / "report.html"), got=", ".join(failed))


def _say_plan(planned: Any, minutes: float, as_json: bool) -> None:
    from luvc_export.trial.run import check_anything

    steps = [{"step": e.step.name, "title": e.step.title, "seconds": e.seconds, "why_not": e.why} for e in planned]
    total = sum(each.seconds for each in planned if each.why is None)
    lines = [
        f"{e.step.name:14} {e.step.title}: " + (f"not done: {e.why}" if e.why else f"about {e.seconds:.0f} s")
        for e in planned
    ]
    last = f"about {total / 60:.0f} of {minutes:g} minutes; times are assumed, and grow with the weights"
    write(as_json, {"steps": steps, "seconds": total, "minutes": minutes}, *lines, last)
    check_anything(planned)
