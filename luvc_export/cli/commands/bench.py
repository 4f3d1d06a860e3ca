"""``luvc-export bench``."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from importlib import import_module
from pathlib import Path
from typing import Any

from luvc_export.cli import options
from luvc_export.cli.files import check_writable, write_whole
from luvc_export.cli.options import grouped
from luvc_export.cli.tables.console import write
from luvc_export.core.options import choice, option
from luvc_export.errors import UsageError
from luvc_export.runtime.bench.case import BenchCase
from luvc_export.runtime.cpu_features import cpu_features


@grouped
def bench(
    *,
    case: BenchCase,
    vs: str | None = option(None, "Run in turns with FOLDER, FOLDER#PLAN or #PLAN.", metavar="OTHER"),
    repeats: int = option(5, "Runs that count.", least=1),
    warm_up: int = option(1, "Runs before those.", least=0),
    sweep: str | None = option(None, "tokens: more text and images; budget: every plan of the bundle."),
    output: Path | None = option(None, "Folder for the sweep's PNG and HTML; default: this one.", "-o", "--output"),
    as_json: options.Json = False,
) -> None:
    """Time a bundle on noise: vision, prefill, first token, decode, memory, merges and prunes alone.

    Of a plan with variants (sizes, clips, tiles, buckets), memory with all of them open and with one at a time too.

    [dim]luvc-export bench qwen-bundle --plan thirds --vs '#none'
    luvc-export bench qwen-bundle --sweep budget -o curves[/dim]
    """
    from luvc_export.bundle.folder import load
    from luvc_export.cli.tables.bench import bench_table
    from luvc_export.runtime.bench.machine import bandwidth_reader, measure_machine
    from luvc_export.runtime.bench.measure import measure
    from luvc_export.runtime.bench.plan_memory import measure_open_plans
    from luvc_export.runtime.bench.profile import profile

    verify, case = case.verify, replace(case, verify=False)  # once, here
    first = _case(str(case.bundle), case.plan, case)
    cases = [first] if vs is None else [first, _case(vs, None, first)]
    with options.progress(as_json) as tell:
        for folder in {each.bundle for each in cases}:
            load(folder, verify, tell)
    if sweep is not None:
        if vs is not None:
            raise UsageError("--sweep and --vs are two jobs", where="--sweep", fix="leave one of them out")
        _sweep(first, sweep, repeats, warm_up, output or Path(), as_json)
        return
    if output is not None:
        raise UsageError("only a sweep writes files", where=f"--output {output}", fix="pass --sweep, or leave it out")
    machine = measure_machine(case.threads)
    with options.progress(as_json) as tell:
        timed = measure(cases, repeats, warm_up, tell, bandwidth_reader(case.threads))
        profiles, opened = list[Any](), list[Any]()
        steps = ("profiling", profile, profiles), ("opening plans beside each other", measure_open_plans, opened)
        for index, each in enumerate(cases):
            for stage, work, done in steps:
                tell(stage, index / len(cases))
                done.append(work(each))
                tell(stage, (index + 1) / len(cases))
    write(
        as_json,
        lambda: _json(timed, profiles, machine, opened),
        lambda: [bench_table(timed, profiles, machine, opened)],
    )


def _case(named: str, plan: str | None, like: Any) -> Any:
    """``FOLDER``, ``FOLDER#PLAN`` or ``#PLAN`` as a case like ``like``; or the plan beside it."""
    folder, _, inside = named.partition("#")
    if plan and inside and plan != inside:
        raise UsageError("two plans are named", where="--plan", got=f"{plan} and {named}", fix="name one of them")
    path, chosen = Path(folder) if folder else like.bundle, plan or inside or None
    return replace(like, bundle=path, plan=chosen, label=f"{path.name}#{chosen}" if chosen else path.name)


def _json(timed: Any, profiles: Any, machine: Any, opened: Any) -> dict[str, Any]:
    from luvc_export.runtime.bench.case import METRICS
    from luvc_export.runtime.bench.machine import roofline
    from luvc_export.runtime.bench.measure import ratio

    runs = []
    for one, profile, plans in zip(timed, profiles, opened, strict=True):
        parts = {name: asdict(part) for name, part in profile.items()}
        reached = asdict(roofline(one, machine)) if one.samples[0].decode_ms else {}
        beside = None if plans is None else asdict(plans)
        runs.append({**one.to_json(), "profile": parts, "roofline": reached, "open_plans": beside})
    data: dict[str, Any] = {"machine": {**asdict(machine), "cpu_features": cpu_features()}, "cases": runs}
    if len(timed) == 2:
        data["ratios"] = {metric: asdict(ratio(timed[0], timed[1], metric)) for metric in METRICS}
    cleaned: dict[str, Any] = json.loads(json.dumps(data), parse_constant=lambda text: None)
    return cleaned


def _sweep(first: Any, kind: str, repeats: int, warm_up: int, output: Path, as_json: bool) -> None:
    from luvc_export.calibration.bench.sweep import curve, growth, page, points
    from luvc_export.runtime.bench.machine import measure_machine
    from luvc_export.runtime.bench.measure import measure

    choice("--sweep", kind, ("tokens", "budget"))
    check_writable(output / f"sweep-{kind}.png", "--output")
    import_module("matplotlib")  # what draws is asked for before minutes of measuring
    measured = points(first, kind)  # type: ignore[arg-type]
    machine = measure_machine(first.threads)
    with options.progress(as_json) as tell:
        timed = measure([point.case for point in measured], repeats, warm_up, tell)
    files = {
        output / f"sweep-{kind}.png": curve(measured, timed, kind, machine),  # type: ignore[arg-type]
        output / f"sweep-{kind}.html": page(measured, timed, kind, machine).encode(),  # type: ignore[arg-type]
    }
    for path, data in files.items():
        write_whole(path, data)
    pairs, exponent = list(zip(measured, timed, strict=True)), growth(measured, timed)
    cases = [{"tokens_a_layer": point.tokens, **one.to_json()} for point, one in pairs]
    sweep = {"machine": asdict(machine), "cases": cases, "exponent": exponent, "files": [*map(str, files)]}
    lines = (
        f"{one.facts.label}: {point.tokens:.0f} tokens a layer, prefill {one.stat('prefill_ms').median:.4g} ms"
        for point, one in pairs
    )
    last = f"prefill grows as tokens to the power {exponent:.2f}", "wrote " + ", ".join(map(str, files))
    write(as_json, sweep, *lines, *last)
