"""A plan in another precision, as text and as plain data."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from luvc_export.core.precision import WIDE
from luvc_export.errors import first_few

if TYPE_CHECKING:
    from luvc_export.calibration.datasets import CalibrationSet
    from luvc_export.calibration.quantise.calibrate import Calibrated
    from luvc_export.calibration.quantise.forecast import Forecast
    from luvc_export.calibration.quantise.plans import CalibratedCaches

#: Products named that stay high whatever the answers are; ``--json`` names all.
_SHOWN = 3


def foretell(forecast: Forecast) -> None:
    """What calibrating takes, on stderr."""
    print(f"calibrating takes {forecast}", file=sys.stderr)


def weights_lines(calibrated: Calibrated, cases: CalibrationSet, asked: float) -> Iterator[str]:
    """Plan, data, agreement, trials, and what stays high."""
    report, high = weights_report(calibrated), calibrated.found.high
    plan = f"{calibrated.plan} in {calibrated.bundle.folder}, {calibrated.bytes / 2**20:.2f} MiB"
    asked_of = "NDCG@5 of {} held-out queries" if report["found"] else "{} held-out answers"
    shares = {"accuracy": report["accuracy"], **report["found"]}
    yield from _agreement_lines(plan, cases, report["agreement"], asked_of.format(report["answers"]), asked, shares)
    trials = ", ".join(f"{item['high']} high {item['agreement']:.4f}" for item in report["trials"])
    yield f"trials    | {len(report['trials'])}: {trials}"
    wide = f", {len(report['wide'])} of them in 8 bits" if report["wide"] else ""
    yield f"layers    | {report['quantised']} quantised{wide}, {len(report['high'])} high"
    yield from (f"  8 bits  | {name}" for name in report["wide"])
    for name in calibrated.dropped:
        yield f"dropped   | {name}, which read what was replaced: make it again from {calibrated.plan}"
    for name in high:
        yield f"  high    | {name} (needed for agreement)"
    if others := [name for name in report["high"] if name not in high]:
        yield f"  high    | {first_few(others, _SHOWN)}"


def _agreement_lines(
    plan: str,
    cases: CalibrationSet,
    agreed: float,
    answered: str,
    asked: float,
    shares: Mapping[str, dict[str, float] | None],
) -> Iterator[str]:
    """Plan, data, agreement, and shares of right answers or of pages that are found, before and after."""
    yield f"plan      | {plan}"
    yield f"data      | {cases.name}, {len(cases.cases)} cases, sha256 {cases.sha256[:16]}"
    yield f"agreement | {agreed:.4f} of {answered}, asked {asked:g}"
    for name, both in shares.items():
        if both:
            yield f"{name:9} | {both['reference']:.4f} -> {both['quantised']:.4f}"


def _accuracy_of(comparison: Any) -> dict[str, float] | None:
    """Shares of right answers before and after, where the right ones are known."""
    sides = {"reference": "reference", "quantised": "candidate"}
    right = {name: comparison.right(who) for name, who in sides.items()} if comparison.known else {}
    return {name: sum(answers) / len(answers) for name, answers in right.items()} or None


def _found(comparison: Any) -> dict[str, dict[str, float]]:
    """NDCG@5 and recall@5 of pairs before and after."""
    before, after = comparison.found
    return {
        "NDCG@5": {"reference": before.ndcg.value, "quantised": after.ndcg.value},
        "recall@5": {"reference": before.recall.value, "quantised": after.recall.value},
    }


def weights_report(result: Calibrated) -> dict[str, Any]:
    """Plain data of a quantised plan."""
    of_pairs = not result.bundle.manifest.does.decodes
    entry = result.bundle.manifest.plans[result.plan].quantised
    assert entry is not None
    narrow = (entry.precision, WIDE)
    return {
        "bundle": str(result.bundle.folder),
        "plan": result.plan,
        "bytes": result.bytes,
        "agreement": result.found.agreement,
        "answers": len(result.made.answered),
        "accuracy": None if of_pairs else _accuracy_of(result.made),
        "found": _found(result.made) if of_pairs else {},
        "high": [name for name, precision in entry.layers.items() if precision not in narrow],
        "wide": [name for name, precision in entry.layers.items() if precision == WIDE != entry.precision],
        "quantised": sum(precision in narrow for precision in entry.layers.values()),
        "needed": list(result.found.high),
        "dropped": list(result.dropped),
        "trials": [{"high": len(item.high), "agreement": item.agreement} for item in result.found.trials],
    }


def caches_report(stored: CalibratedCaches, cases: CalibrationSet, asked: float) -> tuple[dict[str, Any], list[str]]:
    """A plan with caches in codes, as plain data and as lines."""
    from luvc_export.calibration.quantise.agreement import share
    from luvc_export.core.budgets import kv_bytes

    agreed, answered, accuracy = share(stored.made), len(stored.made.answered), _accuracy_of(stored.made)
    shape = stored.bundle.manifest.decoder
    wide, narrow = (sum(kv_bytes(shape, [0] * shape.layers, 1, codes=codes)) for codes in (False, True))
    facts = {"bundle": str(stored.bundle.folder), "plan": stored.plan, "agreement": agreed, "answers": answered}
    plan, of = f"{stored.plan} in {stored.bundle.folder}", f"{answered} held-out answers"
    lines = _agreement_lines(plan, cases, agreed, of, asked, {"accuracy": accuracy})
    caches = f"caches    | {narrow:,} bytes a token, {narrow / wide:.1%} of 16 bits"
    return facts | {"accuracy": accuracy, "cache_share": narrow / wide}, [*lines, caches]
