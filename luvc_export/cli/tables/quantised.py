"""A plan in another precision, as text and as plain data."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

from luvc_export.core.precision import WIDE

if TYPE_CHECKING:
    from luvc_export.calibration.datasets import CalibrationSet
    from luvc_export.calibration.quantise.calibrate import Calibrated
    from luvc_export.calibration.quantise.forecast import Forecast


def foretell(forecast: Forecast) -> None:
    """What calibrating takes, on stderr."""
    print(f"calibrating takes {forecast}", file=sys.stderr)


def show_weights(calibrated: Calibrated, cases: CalibrationSet, asked: float) -> None:
    """Plan, data, agreement, trials, and what stays high."""
    report = weights_report(calibrated)
    agreed, answered = calibrated.found.agreement, len(calibrated.made.answered)
    accuracy = report["accuracy"] and (report["accuracy"]["reference"], report["accuracy"]["quantised"])
    size = f", {calibrated.bytes / 2**20:.2f} MiB"
    print_agreement(f"{calibrated.plan} in {calibrated.bundle.folder}{size}", cases, agreed, answered, asked, accuracy)
    trials = ", ".join(f"{item['high']} high {item['agreement']:.4f}" for item in report["trials"])
    print(f"trials    | {len(report['trials'])}: {trials}")
    wide = f", {len(report['wide'])} of them in 8 bits" if report["wide"] else ""
    print(f"layers    | {report['quantised']} quantised{wide}, {len(report['high'])} high")
    for name in report["wide"]:
        print(f"  8 bits  | {name}")
    for name in calibrated.dropped:
        print(f"dropped   | {name}, which read what was replaced: make it again from {calibrated.plan}")
    for name in report["high"]:
        print(f"  high    | {name}{' (needed for agreement)' if name in calibrated.found.high else ''}")


def print_agreement(
    plan: str, cases: CalibrationSet, agreed: float, answered: int, asked: float, accuracy: tuple[float, float] | None
) -> None:
    """Plan, data and agreement."""
    print(f"plan      | {plan}")
    print(f"data      | {cases.name}, {len(cases.cases)} cases, sha256 {cases.sha256[:16]}")
    print(f"agreement | {agreed:.4f} of {answered} held-out answers, asked {asked:g}")
    if accuracy:
        print(f"accuracy  | {accuracy[0]:.4f} -> {accuracy[1]:.4f}")


def weights_report(result: Calibrated) -> dict[str, Any]:
    """Plain data of a quantised plan."""
    entry = result.bundle.manifest.plans[result.plan].quantised
    assert entry is not None
    narrow = (entry.precision, WIDE)
    known = result.made.known
    right = {who: result.made.right(who) for who in ("reference", "candidate")} if known else {}
    share = {who: sum(answers) / len(answers) for who, answers in right.items()}
    return {
        "bundle": str(result.bundle.folder),
        "plan": result.plan,
        "bytes": result.bytes,
        "agreement": result.found.agreement,
        "answers": len(result.made.answered),
        "accuracy": {"reference": share["reference"], "quantised": share["candidate"]} if known else None,
        "high": [name for name, precision in entry.layers.items() if precision not in narrow],
        "wide": [name for name, precision in entry.layers.items() if precision == WIDE != entry.precision],
        "quantised": sum(precision in narrow for precision in entry.layers.values()),
        "needed": list(result.found.high),
        "dropped": list(result.dropped),
        "trials": [{"high": len(item.high), "agreement": item.agreement} for item in result.found.trials],
    }
