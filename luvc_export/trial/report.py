"""A trial's report as data and as a page: figures and verdicts, without a path, a name or a weight; and its hash.

The hash finds a figure that was changed by mistake or by hand. It is no signature: whoever writes a report can write
its hash, and nobody vouches for it.
"""

from __future__ import annotations

import contextlib
import getpass
import hashlib
import json
import platform
import re
import statistics
from collections.abc import Iterable, Iterator, Sequence, Set
from dataclasses import asdict
from html import escape
from pathlib import Path
from typing import Any

from luvc_export.core.files.html import document, figure, table
from luvc_export.core.named_plans import DEFAULT_PLAN
from luvc_export.errors import CheckFailed, UsageError
from luvc_export.trial.claims import judge
from luvc_export.trial.run import Journal
from luvc_export.trial.steps import STEPS

SCHEMA = 1
#: Own steps of the runner, beside those of ``steps.STEPS``.
_OWN = ("machine", "power-after")
_PATH = re.compile(r"(^|[\s\"'=:(])(/|~/|[A-Za-z]:\\|\\\\)[^\s/\\]+[/\\]")
#: Names that say nothing of anybody, and would be found everywhere.
_COMMON = {"root", "user", "localhost", "ubuntu", "nvidia", "admin", "runner"}


def make(journal: Journal) -> dict[str, Any]:
    """The report.

    Raises:
        UsageError: A result of a step in the journal is not what its verb says.
        CheckFailed: Something in it looks like a path, or names this host or user: it is not written.
    """
    with figures_of(str(journal.folder)):
        names = [*_OWN, *(step.name for step in STEPS)]
        results = {name: _step(journal.steps[name]) for name in names if name in journal.steps}
        whole = {
            "schema": SCHEMA,
            "version": journal.asked["version"],
            "target": journal.asked["target"],
            "steps": results,
            "verdicts": [asdict(line) for line in judge(results)],
        }
        whole = json.loads(json.dumps(whole), parse_constant=str)
        private = list(told_too_much(whole, own_names()))
        if private:
            raise CheckFailed("the report would say more than it should", got="; ".join(private[:3]), fix="report this")
        return {**whole, "sha256": digest(whole)}


@contextlib.contextmanager
def figures_of(where: str) -> Iterator[None]:
    """While results of steps are read, which came from a file.

    Raises:
        UsageError: One of them is not what its verb says.
    """
    try:
        yield
    except (LookupError, TypeError, ValueError, ArithmeticError, StopIteration, RuntimeError, AttributeError) as error:
        raise UsageError(
            "the journal of this trial lacks figures",
            where=where,
            got=f"{type(error).__name__}: {error}",
            fix="give the trial a folder of its own: --out FOLDER",
        ) from error


def digest(report: dict[str, Any]) -> str:
    """SHA-256 of a report without its own hash, as JSON with sorted keys and no spaces."""
    rest = {key: value for key, value in report.items() if key != "sha256"}
    text = json.dumps(rest, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return hashlib.sha256(text.encode("ascii")).hexdigest()


def told_too_much(value: Any, names: Set[str] = frozenset(), where: str = "") -> Iterator[str]:
    """Where text of a report holds a path, or one of ``names``."""
    if isinstance(value, dict):
        for key, item in value.items():
            yield from told_too_much(item, names, f"{where}.{key}")
    elif isinstance(value, list):
        for index, item in enumerate(value):
            yield from told_too_much(item, names, f"{where}[{index}]")
    elif isinstance(value, str):
        words = {word.lower() for word in re.split(r"[^\w-]+", value)}
        if _PATH.search(value) or words & names:
            yield where.lstrip(".")


def own_names() -> set[str]:
    """Names of this host and this user, but for those that say nothing of anybody."""
    names = {platform.node().split(".")[0].lower(), Path.home().name.lower()}
    with contextlib.suppress(OSError, KeyError, ImportError):
        names.add(getpass.getuser().lower())
    return {name for name in names if len(name) > 2} - _COMMON


def _step(step: dict[str, Any]) -> dict[str, Any]:
    return {key: step[key] for key in ("state", "seconds", "why", "result")}


_COLOURS = {DEFAULT_PLAN: "#2a7f9e", "none": "#b9b9b9"}
_WIDTH, _ROW = 640, 26


def page(report: dict[str, Any], picture: Path | None = None) -> str:
    """The page as text; ``picture`` shows what was kept, and is part of the page."""
    with figures_of(str(picture.parent) if picture else "report"):
        steps, machine = report["steps"], report["steps"]["machine"]["result"]
        body = [f"<h1>Trial on {escape(str(machine['device']))}</h1>"]
        counts = [f"{sum(line['verdict'] == kind for line in report['verdicts'])} {kind}" for kind in _KINDS]
        body.append(f"<p>luvc-export {escape(report['version'])}: {', '.join(counts)}.</p>")
        rows = [(_verdict(line["verdict"]), line["says"], line["figure"]) for line in report["verdicts"]]
        body.append(table(("", "promise", "figure, or why it was not tried"), rows, raw=1))
        body += _bench(steps)
        if picture is not None and picture.is_file():
            body.append("<h2>What was kept</h2>")
            body.append(figure(picture.read_bytes(), "A picture drawn for this trial: merges and survivors."))
        body.append("<h2>Machine</h2>")
        body.append(table(("", ""), [(name, _shown(value)) for name, value in machine.items()]))
        body.append("<h2>Steps</h2>")
        done = [
            (name, step["state"], "" if step["state"] == "skipped" else f"{step['seconds']:.1f} s", step["why"] or "")
            for name, step in steps.items()
        ]
        body.append(table(("step", "state", "took", "why"), done))
        body.append(f"<p>SHA-256 of the report: <code>{escape(report['sha256'])}</code></p>")
        return document("Trial", body)


_KINDS = ("holds", "fails", "not tried")


def _bench(steps: dict[str, Any]) -> Iterable[str]:
    bench = steps.get("bench", {}).get("result")
    if not bench:
        return
    yield "<h2>Compressed and not, in turns</h2>"
    for metric, title in (("vision_ms", "vision"), ("prefill_ms", "prefill"), ("ttft_ms", "first token")):
        bars = [(c["plan"], statistics.median(run[metric] for run in c["runs"])) for c in bench["cases"]]
        yield _bars(f"{title}, ms (median)", bars)
    yield _bars("KV cache, MiB", [(case["plan"], case["kv_mib"]) for case in bench["cases"]])
    most = max(max(case["visual_tokens"]) for case in bench["cases"])
    for case in bench["cases"]:
        kept = case["visual_tokens"]
        points = " ".join(
            f"{10 + index * (_WIDTH - 20) / max(1, len(kept) - 1):.1f},{110 - 100 * count / max(1, most):.1f}"
            for index, count in enumerate(kept)
        )
        colour = _COLOURS.get(case["plan"], "#444")
        label = f"plan {escape(case['plan'])}: visual tokens by layer, {kept[0]} to {kept[-1]}"
        line = f'<polyline fill=none stroke="{colour}" stroke-width=3 points="{points}"/>'
        yield f"<figure><svg width={_WIDTH} height=120>{line}</svg><figcaption>{label}</figcaption></figure>"


def _bars(title: str, bars: Sequence[tuple[str, float]]) -> str:
    most = max(value for _, value in bars) or 1.0
    lines = []
    for index, (name, value) in enumerate(bars):
        top, length = index * _ROW, (_WIDTH - 200) * value / most
        colour = _COLOURS.get(name, "#444")
        lines.append(f"<text x=0 y={top + 17}>{escape(name)}</text>")
        lines.append(f'<rect x=60 y={top + 4} width="{length:.1f}" height=16 fill="{colour}"/>')
        lines.append(f'<text x="{length + 68:.1f}" y={top + 17}>{value:.3g}</text>')
    drawn = f"<svg width={_WIDTH} height={_ROW * len(bars)}>{''.join(lines)}</svg>"
    return f"<figure><figcaption>{escape(title)}</figcaption>{drawn}</figure>"


def _verdict(verdict: str) -> str:
    return f"<span class={verdict.split()[0]}>{verdict}</span>"


def _shown(value: Any) -> str:
    if value is None:
        return "not known"
    if isinstance(value, dict):
        known = {key: item for key, item in value.items() if item not in (None, [], {})}
        return ", ".join(f"{key} {_shown(item)}" for key, item in known.items()) or "not known"
    return ", ".join(_shown(item) for item in value) if isinstance(value, list) else str(value)
