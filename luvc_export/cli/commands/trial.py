"""``luvc-export trial``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from luvc_export.cli import options
from luvc_export.cli.files import check_folder, check_model, write_whole
from luvc_export.cli.grouped import grouped
from luvc_export.cli.groups import SizeOptions
from luvc_export.errors import CheckFailed, UsageError


@grouped
def trial(
    *,
    model: Annotated[str, typer.Argument(help="Checkpoint folder, hub id, or demo for the bundled model.")],
    target: Annotated[
        str | None, typer.Option("--target", help="Whose engines; default: this GPU's, else what can be built here.")
    ] = None,
    out: Annotated[
        Path, typer.Option("-o", "--out", help="Folder; a trial that was interrupted goes on there.")
    ] = Path("trial-out"),
    minutes: Annotated[float, typer.Option("--minutes", help="End inside so many minutes.")] = 30.0,
    only: Annotated[list[str] | None, typer.Option("--only", help="Only this step; repeat.")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be done, and how long.")] = False,
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
        _say_plan(run.planned(asked, only or []), minutes, as_json)
        return
    with options.progress(quiet=as_json) as tell:
        journal = run.run(asked, minutes, only or [], tell)
    summary = report.make(journal)
    write_whole(out / "report.json", json.dumps(summary, indent=1) + "\n")
    write_whole(out / "report.html", page(summary, out / "kept.png"))
    if as_json:
        print(json.dumps(summary))
    else:
        _say(summary, out)
    failed = [line["claim"] for line in summary["verdicts"] if line["verdict"] == "fails"]
    if failed:
        raise CheckFailed("the trial found what does not hold", where=str(out / "report.html"), got=", ".join(failed))


def _say_plan(planned: Any, minutes: float, as_json: bool) -> None:
    from luvc_export.trial.run import check_anything

    steps = [{"step": e.step.name, "title": e.step.title, "seconds": e.seconds, "why_not": e.why} for e in planned]
    total = sum(each.seconds for each in planned if each.why is None)
    if as_json:
        print(json.dumps({"steps": steps, "seconds": total, "minutes": minutes}))
    else:
        for step in steps:
            shown = f"not done: {step['why_not']}" if step["why_not"] else f"about {step['seconds']:.0f} s"
            print(f"{step['step']:14} {step['title']}: {shown}")
        print(f"about {total / 60:.0f} of {minutes:g} minutes; times are assumed, and grow with the weights")
    check_anything(planned)


def _say(trial_report: dict[str, Any], out: Path) -> None:
    from luvc_export.cli.tables import console as consoles

    colours = {"holds": "green", "fails": "red", "not tried": "dim"}
    rows = (
        (consoles.styled((line["verdict"], colours[line["verdict"]])), line["says"], line["figure"])
        for line in trial_report["verdicts"]
    )
    consoles.console().print(consoles.table(rows, "", "promise", "figure, or why it was not tried"))
    print(f"wrote {out / 'report.json'} and {out / 'report.html'}; docs/trial.md says what to do with them")
