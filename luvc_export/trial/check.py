"""Check a trial's report, and add it to the committed figures: ``python -m luvc_export.trial.check REPORT [--add]``.

Nothing else writes there. ``docs/measurements/trials.json`` has a record of each report, and the page beside it a table
by device, made from those records.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

from luvc_export.core.files import pages
from luvc_export.core.files.json_file import parse_json, read_json
from luvc_export.core.files.safe_files import write_whole
from luvc_export.errors import CheckFailed, LuvcError, UsageError
from luvc_export.trial.claims import judge
from luvc_export.trial.report import SCHEMA, digest, told_too_much
from luvc_export.trial.steps import STEPS

MEASUREMENTS = Path(__file__).resolve().parents[2] / "docs" / "measurements"
_MOST_BYTES = 4 << 20
_TOP = {"schema", "version", "target", "steps", "verdicts", "sha256"}
_STEP = {"state", "seconds", "why", "result"}
_NAMES = {"machine", "power-after", *(step.name for step in STEPS)}
_STATES = ("done", "failed", "skipped", "cut off")
_FIX = "send report.json as it was written"
#: Versions a report must name, as far as a step that was done used them.
_ALWAYS = ("luvc-export", "python", "numpy")


def read(path: Path) -> dict[str, Any]:
    """Read a report and check its shape, hash, versions and verdicts.

    Raises:
        UsageError: It cannot be read, or is no report.
        CheckFailed: A figure was changed, or a verdict is not what its figures say.
    """
    report = read_json(path, _MOST_BYTES, UsageError, "the report")
    check(report, str(path))
    return dict(report)


def check(report: Any, where: str) -> None:
    """See ``read``."""
    problems = list(_shape(report))
    if problems:
        lines = "\n".join(f"  - {problem}" for problem in problems[:10])
        raise UsageError(
            f"this is no report of a trial:\n{lines}", where=where, fix="send report.json as it was written"
        )
    if digest(report) != report["sha256"]:
        raise CheckFailed(
            "the report was changed after it was written",
            where=where,
            got=digest(report),
            expected=report["sha256"],
            fix=_FIX,
        )
    private = list(told_too_much(report))
    if private:
        raise CheckFailed("the report holds a path or a name", where=where, got="; ".join(private[:3]))
    try:
        verdicts = [asdict(line) for line in judge(report["steps"])]
    except (KeyError, TypeError, ValueError, ZeroDivisionError, IndexError, StopIteration, AttributeError) as error:
        raise UsageError(
            "a step of the report lacks its figures", where=where, got=f"{type(error).__name__}: {error}"
        ) from error
    if verdicts != report["verdicts"]:
        wrong = [ours["claim"] for ours, theirs in zip(verdicts, report["verdicts"], strict=False) if ours != theirs]
        raise CheckFailed(
            "the verdicts are not what the figures say",
            where=where,
            got=", ".join(wrong) or f"{len(report['verdicts'])} verdicts",
            expected=f"{len(verdicts)} verdicts of luvc-export {report['version']}",
            fix="check it with the version that wrote it",
        )


def _shape(report: Any) -> Iterator[str]:
    if not isinstance(report, dict) or set(report) != _TOP:
        yield f"its parts are {sorted(report) if isinstance(report, dict) else type(report).__name__}"
        return
    if report["schema"] != SCHEMA:
        yield f"schema {report['schema']!r}, this version reads {SCHEMA}"
    for key, kind in (("version", str), ("sha256", str), ("steps", dict), ("verdicts", list)):
        if not isinstance(report[key], kind):
            yield f"{key} is {type(report[key]).__name__}"
            return
    for name, step in report["steps"].items():
        if name not in _NAMES:
            yield f"there is no step {name!r}"
        elif not isinstance(step, dict) or set(step) != _STEP or step["state"] not in _STATES:
            yield f"step {name!r} is not one"
        elif step["state"] == "done" and not isinstance(step["result"], dict):
            yield f"step {name!r} is done and has no result"
        elif isinstance(step["seconds"], bool) or not isinstance(step["seconds"], int | float) or step["seconds"] < 0:
            yield f"step {name!r} took {step['seconds']!r} seconds"
    yield from _versions(report)


def _versions(report: dict[str, Any]) -> Iterator[str]:
    machine = report["steps"].get("machine", {})
    versions = (
        machine.get("result", {}).get("versions") if isinstance(machine, dict) and machine.get("result") else None
    )
    if not isinstance(versions, dict) or not all(isinstance(item, str) for item in versions.values()):
        yield "it does not say what versions it was made with"
        return
    yield from (f"it does not say the version of {name}" for name in _ALWAYS if name not in versions)
    if versions.get("luvc-export") != report["version"]:
        yield f"it names two versions of luvc-export: {report['version']} and {versions.get('luvc-export')}"
    if not isinstance(machine["result"].get("device"), str):
        yield "it does not name its device"


def record(report: dict[str, Any]) -> dict[str, Any]:
    """What is committed of a report: its hash, where it comes from, its verdicts, medians of its figures."""
    steps, machine = report["steps"], report["steps"]["machine"]["result"]
    export = (steps.get("export", {}).get("result")) or {}
    return {
        "sha256": report["sha256"],
        "version": report["version"],
        "device": machine["device"],
        "versions": machine["versions"],
        "power": machine["power"].get("power_mode"),
        "target": report["target"],
        "model_type": export.get("model_type"),
        "checkpoint_sha256": export.get("checkpoint_sha256"),
        "verdicts": {line["claim"]: line["verdict"] for line in report["verdicts"]},
        "figures": {line["claim"]: line["figure"] for line in report["verdicts"] if line["verdict"] != "not tried"},
        "ttft_ms": _medians(steps),
    }


def _medians(steps: dict[str, Any]) -> dict[str, float]:
    bench = (steps.get("bench", {}).get("result")) or {"cases": []}
    return {case["plan"]: statistics.median(run["ttft_ms"] for run in case["runs"]) for case in bench["cases"]}


def add(report: dict[str, Any], folder: Path = MEASUREMENTS) -> bool:
    """Add a checked report to the records and the table in ``folder``; False if it is there already."""
    records = load(folder)
    if any(each["sha256"] == report["sha256"] for each in records):
        return False
    records = sorted([*records, record(report)], key=lambda each: (each["device"], each["sha256"]))
    lines = ",\n".join(json.dumps(each, sort_keys=True) for each in records)
    write_whole(folder / "trials.json", f"[\n{lines}\n]\n" if records else "[]\n")
    write_whole(folder / "README.md", page((folder / "README.md").read_text(encoding="utf-8"), records))
    return True


def load(folder: Path = MEASUREMENTS) -> list[dict[str, Any]]:
    """The records."""
    path = folder / "trials.json"
    return list(parse_json(path.read_bytes(), str(path), UsageError, "the records of trials"))


def page(text: str, records: list[dict[str, Any]]) -> str:
    """``text`` with the table of ``records`` between its marks."""
    return pages.within(text, "trials", table(records))


def table(records: list[dict[str, Any]]) -> str:
    """A line for each report, by device."""
    if not records:
        return "No report has been added yet.\n"
    rows = []
    for each in records:
        ordered = sorted(each["ttft_ms"].items(), key=lambda one: one[0] == "none")
        times = ", ".join(f"{value:.1f} ms" for _, value in ordered)
        counts = [
            [name for name, verdict in each["verdicts"].items() if verdict == kind] for kind in ("holds", "fails")
        ]
        cells = (each["device"], each["model_type"], times, str(len(counts[0])), ", ".join(counts[1]), each["version"])
        rows.append([_cell(cell) for cell in (*cells, each["sha256"][:12])])
    head = ("device", "model", "first token, compressed and not", "holds", "fails", "version", "report")
    return pages.table(head, rows)


def _cell(text: Any) -> str:
    return " ".join(str(text or "").split()).replace("|", r"\|").replace("<", "&lt;")


def main(arguments: list[str] | None = None) -> int:
    """Check a report and say what it holds; with ``--add``, add it."""
    parser = argparse.ArgumentParser(description="Check a report of luvc-export trial.")
    parser.add_argument("report", type=Path, help="report.json")
    parser.add_argument("--add", action="store_true", help="add it to docs/measurements")
    options = parser.parse_args(arguments)
    try:
        report = read(options.report)
        for line in report["verdicts"]:
            print(f"{line['verdict']:9} | {line['says']}: {line['figure']}")
        if options.add:
            print("added" if add(report) else "it is there already")
    except LuvcError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
