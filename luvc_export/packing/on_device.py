"""The second Python of ``install-and-verify``: on the device, with the runtime at hand and nothing else.

A run leaves a report of everything, and ``verified`` in ``luvc.json`` when every case passed.
"""

from __future__ import annotations

import importlib
import json
import sys
from dataclasses import asdict, replace
from datetime import datetime, timezone
from pathlib import Path
from statistics import median
from typing import Any, Literal

from luvc_export.bundle import folder as bundles
from luvc_export.bundle import hashing
from luvc_export.bundle.engines.checks import check_library
from luvc_export.bundle.folder import Bundle
from luvc_export.bundle.graphs import read_graph
from luvc_export.bundle.manifest import EngineEntry, Verified
from luvc_export.calibration.parity.tolerances import tolerances
from luvc_export.core.files.safe_files import write_whole
from luvc_export.core.target import Target
from luvc_export.engines import builder, library, targets
from luvc_export.engines.install import PreparedBuild, install
from luvc_export.errors import InternalError, LuvcError, MachineError
from luvc_export.packing import cases, device_facts, record
from luvc_export.packing.answer import Verdict, answer, compare_answers
from luvc_export.packing.inplace import InplaceOrt
from luvc_export.packing.record import Pack
from luvc_export.runtime.session import Session
from luvc_export.signals import ended_cleanly

_INTERRUPTED = 130


def install_and_verify(folder: Path, backend: str, root: Path, rebuild: bool) -> int:
    """Check, build, answer, sign off; return the exit code and print PASSED or FAILED as the last line."""
    try:
        with ended_cleanly():
            passed = _run(folder, backend, root, rebuild)
    except LuvcError as error:
        print(f"error: {error}", file=sys.stderr)
        print("NOT VERIFIED" if error.exit_code > 1 else "FAILED")
        return error.exit_code
    except (KeyboardInterrupt, SystemExit) as stop:
        print("\ninterrupted; run it again to go on: what was built is kept", file=sys.stderr)
        return stop.code if isinstance(stop, SystemExit) and isinstance(stop.code, int) else _INTERRUPTED
    except Exception as error:
        print(f"internal error: {type(error).__name__}: {error}\n  fix: report this line", file=sys.stderr)
        print("NOT VERIFIED")
        return InternalError.exit_code
    return 0 if passed else 1


def _run(folder: Path, backend: str, root: Path, rebuild: bool) -> bool:
    _say("files")
    pack = record.read(folder)
    bundle = _without_sign_off(_load(folder), pack, backend)
    count = len(pack.files) + len(bundle.manifest.files)
    _say("files", f"{count} as they were made; plan {pack.plan}, {pack.precision}, for {pack.target}")
    target = targets.find(pack.target)
    entry = _engines(bundle, pack, target) if backend == "tensorrt" and not rebuild else None
    facts = device_facts.read(root)
    warnings = _check_device(facts, pack, target, building=backend == "tensorrt" and entry is None)
    if backend == "tensorrt":
        bundle, entry = (bundle, entry) if entry else _build(bundle, pack, target)
        session = Session(bundle, f"tensorrt:{target.name}", pack.plan)
    else:
        _say("engines", "none are built: ONNX Runtime answers with the pack's graphs, which says nothing of TensorRT")
        session = _on_cpu(bundle, pack)
    verdicts, times = _answer_cases(folder, session, pack)
    signed = _signature(
        bundle, pack, target, entry if backend == "tensorrt" else None, facts, verdicts, times, warnings
    )
    passed = all(verdict.passed for verdict in verdicts.values())
    _write_report(folder, facts, verdicts, signed, passed)
    if passed:
        manifest = bundles.load(folder, task=None).manifest
        bundles.write_manifest(folder, replace(manifest, verified=(*manifest.verified, signed)))
    _say("sign-off", f"in {folder / bundles.MANIFEST}" if passed else "none: a case failed")
    good = sum(verdict.passed for verdict in verdicts.values())
    outcome = f"{'PASSED' if passed else 'FAILED'}: {good} of {len(verdicts)} cases, {signed.backend} {signed.version}"
    if passed:
        write_whole(folder / record.VERDICT, f"{outcome}\n")
    print(outcome)
    return passed


def _load(folder: Path) -> Bundle:
    """The pack as a bundle, large files hashed whole; engines are not, as damaged ones are built again."""
    bundle = bundles.load(folder, task=None)
    for name, expected in bundle.manifest.files.items():
        if expected.bytes > hashing.REMEMBERED_BYTES:
            hashing.verify(folder / name, expected, full=True)
    return bundle


def _say(stage: str, text: str = "...") -> None:
    print(f"{stage:<10}| {text}", flush=True)


def _check_device(facts: device_facts.DeviceFacts, pack: Pack, target: Target, building: bool) -> tuple[str, ...]:
    system = f"Jetson Linux {device_facts.numbers(facts.l4t)}" if facts.l4t else "no Jetson Linux"
    free = f"{facts.memory / 2**20:,.0f} MiB free" if facts.memory is not None else "memory unknown"
    _say(
        "device", f"{facts.model or 'unknown board'}, {system}, TensorRT package {facts.tensorrt or 'unknown'}, {free}"
    )
    clocks = ", ".join(f"{item.name} {item.lowest:.0f}-{item.highest:.0f} MHz" for item in facts.clocks)
    _say("power", f"mode {facts.power_mode or 'unknown'}; clocks {clocks or 'unknown'}")
    findings = device_facts.check(facts, target, pack.footprint, building)
    for warning in findings.warnings:
        _say("warning", warning)
    if findings.problems:
        raise MachineError(
            "this device is not what the pack was made for",
            where=target.title,
            got="\n    ".join(findings.problems),
            fix="luvc-export pack for this device (luvc-export targets lists them), or free what is missing",
        )
    return findings.warnings


def _engines(bundle: Bundle, pack: Pack, target: Target) -> EngineEntry | None:
    """Engines an earlier run built, if they are whole and this library loads them."""
    for entry in bundle.manifest.engines:
        if (entry.plan, entry.target) == (pack.plan, pack.target):
            try:
                check_library(entry, target.library.backend, library.load(target.library).__version__)
                for code in entry.code:
                    bundle.read_engine(code).close()
            except LuvcError as error:
                _say("engines", f"built again: {error.what}")
                return None
            _say("engines", "those of an earlier run are kept (--rebuild builds them again)")
            return entry
    return None


def _build(bundle: Bundle, pack: Pack, target: Target) -> tuple[Bundle, EngineEntry]:
    entry = bundle.entry(pack.plan)
    read = [read_graph(bundle, name) for name in (entry.vision, entry.decoder)]
    graphs = [
        builder.BuildInput(name, graph.data, graph.folder, entry.plan, size, tuple(graph.files.values()))
        for name, graph, size in zip((entry.vision, entry.decoder), read, pack.weight_bytes, strict=True)
    ]
    reported = set[str]()

    def tell(stage: str, done: float) -> None:
        if stage not in reported:
            reported.add(stage)
            _say("engines", stage)

    prepared = PreparedBuild(
        pack.plan,
        (graphs[0], graphs[1]),
        target,
        pack.precision,
        pack.kv,
        pack.capacity,
        pack.options(bundle.folder),
        pack.footprint,
    )
    built = install(bundle, prepared, tell)
    return built, built.engine(pack.plan, pack.target)


def _on_cpu(bundle: Bundle, pack: Pack) -> Session:
    if pack.plugins:
        raise MachineError(
            "ONNX Runtime does not run the plugins that these graphs call",
            where=f"--backend cpu, {pack.plugins}",
            fix="leave --backend cpu out on the board, or check a pack made without --dynamicPlugins",
        )
    if pack.kv != "concat":
        return Session(bundle, InplaceOrt(bundle, pack.plan, pack.capacity), pack.plan)
    return Session(bundle, "cpu", pack.plan)


def _answer_cases(folder: Path, session: Session, pack: Pack) -> tuple[dict[str, Verdict], list[tuple[str, float]]]:
    """Answer every case and say how it went; times leave out the first case, which warms up."""
    limits = tolerances(pack.reference_dtype, pack.precision)
    verdicts: dict[str, Verdict] = {}
    times: list[tuple[str, float]] = []
    if pack.cases == "generated":
        _say("cases", "generated pictures and prompts: they compare numbers and say nothing of the model's quality")
    for stored in cases.read(folder):
        reference = stored.answer
        answered = answer(session, stored.pictures, stored.prompt, len(reference.token_ids), reference.token_ids)
        verdict = compare_answers(reference, answered, limits)
        times += answered.milliseconds if verdicts else ()
        verdicts[stored.name] = verdict
        kept = f"kept {verdict.overlap:.3f}"
        figures = f"vectors {verdict.rel_l2:.1e}, {kept}"
        if reference.token_ids:
            figures = f"logits {verdict.rel_l2:.1e}, KL {verdict.kl:.1e}, {kept}, words {verdict.tokens:.3f}"
            figures += f", says {answered.text[:40]!r}"
        passed = "PASSED" if verdict.passed else "FAILED"
        _say("case", f"{passed} {stored.name}: {figures}")
        for reason in verdict.reasons:
            _say("", reason)
    return verdicts, times


def _without_sign_off(bundle: Bundle, pack: Pack, backend: str) -> Bundle:
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


def _signature(
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
        "least_overlap": min(item.overlap for item in items),
    }
    if bundle.manifest.does.decodes:
        figures |= {"worst_kl": max(item.kl for item in items), "least_tokens": min(item.tokens for item in items)}
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
        version=str(importlib.import_module(backend).__version__),
        date=datetime.now(timezone.utc).isoformat(timespec="seconds"),
        device=facts.model,
        system=device_facts.numbers(facts.l4t) if facts.l4t else None,
        power_mode=facts.power_mode,
        cases=len(items),
        figures=figures,
        warnings=warnings,
        files={name: records[name].sha256 for name in names},
    )


def _write_report(
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
