"""What a run leaves behind: a report of everything, and ``verified`` in ``luvc.json`` when every case passed."""

from __future__ import annotations

import importlib
import json
from dataclasses import asdict, replace
from datetime import datetime, timezone
from pathlib import Path
from statistics import median
from typing import Any, Literal

from luvc_export.bundle import folder as bundles
from luvc_export.bundle.folder import Bundle
from luvc_export.bundle.manifest import EngineEntry, Verified
from luvc_export.core.files.safe_files import write_whole
from luvc_export.core.target import Target
from luvc_export.packing import device_check, device_facts, record
from luvc_export.packing.comparison import Verdict
from luvc_export.packing.record import Pack


def take_back(bundle: Bundle, pack: Pack, backend: str) -> Bundle:
    """The bundle with what an earlier run signed taken back: only this run's outcome may stand."""
    kept = tuple(
        item
        for item in bundle.manifest.verified
        if (item.plan, item.target, item.backend == "onnxruntime") != (pack.plan, pack.target, backend == "cpu")
    )
    if kept == bundle.manifest.verified:
        return bundle
    manifest = replace(bundle.manifest, verified=kept)
    bundles.write_manifest(bundle.folder, manifest)
    return Bundle(bundle.folder, manifest)


def make(
    bundle: Bundle,
    pack: Pack,
    target: Target,
    entry: EngineEntry | None,
    facts: device_facts.DeviceFacts,
    verdicts: dict[str, Verdict],
    times: list[tuple[str, float]],
    warnings: tuple[str, ...],
) -> Verified:
    """The sign-off of a run; ``times`` are (what, milliseconds), ``entry`` None where no engine answered."""
    items = list(verdicts.values())
    figures = {
        "worst_rel_l2": max(item.rel_l2 for item in items),
        "worst_kl": max(item.kl for item in items),
        "least_overlap": min(item.overlap for item in items),
        "least_tokens": min(item.tokens for item in items),
    }
    for name in dict.fromkeys(name for name, _ in times):
        figures[f"median_{name}_ms"] = median(value for each, value in times if each == name)
    backend: Literal["tensorrt", "tensorrt_rtx", "onnxruntime"] = entry.backend if entry else "onnxruntime"
    plan = bundle.entry(pack.plan)
    records = {part.file: part.record for part in entry.code} if entry else bundle.manifest.files
    names = list(records) if entry else [plan.vision, plan.decoder]
    return Verified(
        plan=pack.plan,
        target=pack.target,
        backend=backend,
        version=_version(backend),
        date=datetime.now(timezone.utc).isoformat(timespec="seconds"),
        device=facts.model,
        system=device_check.numbers(facts.l4t) if facts.l4t else None,
        power_mode=facts.power_mode,
        cases=len(items),
        figures=figures,
        warnings=warnings,
        files={name: records[name].sha256 for name in names},
    )


def _version(backend: str) -> str:
    return str(importlib.import_module(backend).__version__)


def write_report(
    folder: Path, facts: device_facts.DeviceFacts, verdicts: dict[str, Verdict], signed: Verified, passed: bool
) -> None:
    """Everything about this run, whether it passed or not."""
    data: dict[str, Any] = {
        "passed": passed,
        **asdict(signed),
        "facts": asdict(facts),
        "cases": {name: {**asdict(verdict), "passed": verdict.passed} for name, verdict in verdicts.items()},
    }
    write_whole(folder / record.REPORT, json.dumps(data, indent=1) + "\n")


def sign(folder: Path, signed: Verified) -> None:
    """Add the sign-off to ``luvc.json``."""
    manifest = bundles.load(folder).manifest
    bundles.write_manifest(folder, replace(manifest, verified=(*manifest.verified, signed)))
