"""``luvc-export doctor``."""

from __future__ import annotations

import os
import platform
import re
import shutil
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

from luvc_export.cli import options
from luvc_export.cli.options import grouped
from luvc_export.cli.tables.console import styled, table, write
from luvc_export.core.options import option
from luvc_export.errors import MachineError, UsageError, did_you_mean
from luvc_export.version import VERSION

#: What every part that runs a model needs beside its extra's packages.
_RUNTIME = ("numpy", "pillow", "tokenizers", "jinja2")
#: Extras by another name than their own; the others are parts by theirs, whatever extras come.
_TITLES = {
    "cpu": "run on CPU",
    "openvino": "OpenVINO",
    "report": "demo pictures, plots",
    "rtx": "TensorRT-RTX",
}
#: Extras that are for who works on this project.
_HIDDEN = ("dev",)
#: What stands in for a package: the same modules under another distribution's name.
_INSTEAD = {"onnxruntime": ("onnxruntime-gpu",)}
_REQUIREMENT = re.compile(r"""([\w.-]+)[^;]*;.*extra\s*==\s*["']([\w-]+)["']""")


@dataclass(frozen=True)
class Part:
    """A part of the tool."""

    packages: tuple[str, ...] = ()
    extra: str | None = None
    fix: str = ""
    program: str | None = None


#: Parts that no extra brings.
_OTHERS = {
    "TensorRT": Part(("tensorrt",), fix="comes with JetPack, or from NVIDIA's package index"),
    "triton": Part(program="tritonserver", fix="NVIDIA's Triton container has it; luvc-export triton writes for it"),
}


def known_parts() -> dict[str, Part]:
    """Every part by name: one for each extra of this package's metadata, and those that no extra brings.

    Raises:
        MachineError: The package has no metadata: it runs from a folder and was never installed.
    """
    from importlib.metadata import PackageNotFoundError, requires  # slow to import, and --help needs none of it

    try:
        lines = requires("luvc-export") or []
    except PackageNotFoundError as error:
        fix = "pip install luvc-export, or pip install -e . in a checkout"
        raise MachineError("luvc-export is not installed, so its extras are not known", fix=fix) from error
    extras: dict[str, list[str]] = {}
    for line in lines:
        match = _REQUIREMENT.match(line)
        if match and match[2] not in _HIDDEN:
            extras.setdefault(match[2], []).append(match[1])
    parts = {}
    for extra, packages in extras.items():
        runs = _RUNTIME if extra in ("cpu", "openvino") else ()
        parts[_TITLES.get(extra, extra)] = Part((*packages, *runs), extra)
    return parts | _OTHERS


@grouped
def doctor(
    *,
    bundle: Path | None = option(None, "A bundle: also say what it is and what is left out.", argument=True),
    need: tuple[str, ...] = option(
        (), "Exit 3 unless this part works, such as export or serve; repeat. Default: run on CPU."
    ),
    as_json: options.Json = False,
) -> None:
    """Say what works on this machine, and how to get what does not.

    [dim]luvc-export doctor
    luvc-export doctor qwen-bundle[/dim]
    """
    from luvc_export.runtime.memory import available_bytes

    known = known_parts()
    needed = [_named(name, known) for name in need or ["run on CPU"]]
    facts = None if bundle is None else _facts(bundle)
    memory = available_bytes()
    parts = {name: _state(part) for name, part in known.items()}
    machine = {
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}",
        "cpus": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "memory_gib": round(memory / 2**30, 1) if memory else None,
        "disk_gib": round(shutil.disk_usage(".").free / 2**30, 1),
    }
    machine |= _measured([part["found"] for part in parts.values()])
    write(as_json, {"machine": machine, "parts": parts, "bundle": facts}, lambda: [_table(machine, parts, facts or {})])
    for name in needed:
        if missing := parts[name]["missing"]:
            raise MachineError(f"{name} does not work here", got=", ".join(missing), fix=parts[name]["fix"])


def _measured(versions: list[dict[str, str]]) -> dict[str, Any]:
    """What engines have and compute here; asked once for these versions, this CPU, its devices and times of steps."""
    from luvc_export.core.files.folders import cache_folder
    from luvc_export.core.files.remembered import keep, recall
    from luvc_export.runtime.cpu_features import cpu_features

    features = cpu_features()
    changing = (cache_folder() / "steps", Path("/dev/dri"), Path("/dev/accel"))
    stamps = [path.stat().st_mtime_ns if path.is_dir() else 0 for path in changing]
    key: dict[str, Any] = {"luvc-export": VERSION, "versions": versions, "cpu": features, "system": platform.platform()}
    key |= {"cpus": os.cpu_count(), "stamps": stamps}
    if record := recall("doctor", key):
        return {name: value for name, value in record.items() if name != "key"}
    products, (steps, settled) = _products(), _steps()
    facts = {"cpu_features": features, "onnxruntime_providers": _providers(), "openvino_devices": _devices()}
    facts |= {"products": products, "steps": steps}
    installed = {name.partition("-")[0] for part in versions for name in part}
    asked = {"onnxruntime": "onnxruntime_providers", "openvino": "openvino_devices"}
    if settled and all(facts[what] for engine, what in asked.items() if engine in installed):  # else it may be mended
        keep("doctor", key | {"stamps": [(cache_folder() / "steps").stat().st_mtime_ns, *stamps[1:]]}, facts)
    return facts


def _named(name: str, known: Mapping[str, Part]) -> str:
    """The part of that extra, or the shortest that begins with ``name``, in any case: ``tensorrt`` is no RTX."""
    extra = [title for title, part in known.items() if name and part.extra == name.lower()]
    begins = sorted((title for title in known if name and title.lower().startswith(name.lower())), key=len)
    if not extra + begins:
        names = [*known, *(part.extra for part in known.values() if part.extra)]
        raise UsageError(
            "unknown part", where="--need", got=repr(name), expected=did_you_mean(name, dict.fromkeys(names))
        )
    return (extra + begins)[0]


def _facts(folder: Path) -> dict[str, Any]:
    """What a bundle is, and what of its model is not in it."""
    from luvc_export.bundle.folder import load

    manifest = load(folder).manifest
    return {
        "model": f"{manifest.source.model} ({manifest.source.model_type})",
        "arithmetic": manifest.dtype,
        "plans": [*manifest.plans],
        "vocabulary": str(manifest.vocabulary or f"answers are written with all {manifest.decoder.vocab:,} tokens"),
    }


def _state(part: Part) -> dict[str, Any]:
    from importlib.metadata import PackageNotFoundError, version

    versions, missing = {}, []
    for package in part.packages:
        for name in (package, *_INSTEAD.get(package, ())):
            try:
                versions[name] = version(name)
                break
            except PackageNotFoundError:
                continue
        else:
            missing.append(package)
    if part.program is not None:
        path = shutil.which(part.program)
        versions |= {part.program: path} if path else {}
        missing += [] if path else [part.program]
    fix = f"pip install 'luvc-export[{part.extra}]'" if part.extra else part.fix
    return {"found": versions, "missing": missing, "fix": fix if missing else None}


def _providers() -> list[str]:
    try:
        return list(import_module("onnxruntime").get_available_providers())
    except ImportError:
        return []


def _devices() -> list[str]:
    """OpenVINO's devices and what they compute in, the best first."""
    from luvc_export.errors import LuvcError
    from luvc_export.runtime.openvino import device

    try:
        devices = [device.describe(str(name)) for name in device.core().available_devices]
    except (LuvcError, RuntimeError):
        return []
    ways = [", weights stored in it not packed" * device.reads_in_place(item, item.best) for item in devices]
    names = [f"{item.name}: {item.title}, {', '.join(item.arithmetics)}; best in {item.best}" for item in devices]
    return [name + way for name, way in zip(names, ways, strict=True)]


def _products() -> list[str]:
    """Arithmetic that an engine computes wrong on this CPU, and what is done about it; what it computes right."""
    from luvc_export.errors import LuvcError
    from luvc_export.runtime.openvino import device
    from luvc_export.runtime.product_check import check as engines
    from luvc_export.runtime.product_check.check import Checked

    checks: list[Checked] = []
    notes: list[str] = []
    with suppress(ImportError):
        checks.append(engines.onnxruntime_int8())
    with suppress(LuvcError, RuntimeError):
        notes += device.find().notes
        checks.append(engines.openvino_int8(device.core(), "CPU"))
    return notes + [checked.note or f"{checked.engine}: {checked.arithmetic} is exact" for checked in checks]


def _steps() -> tuple[list[str], bool]:
    """What ``auto`` goes by for plans in 8 and 4 bits: products of a step at Qwen2.5-VL-3B's layer shape.

    And whether that stays: what was timed beside other work is timed again.
    """
    from luvc_export.core.shapes import DecoderShape
    from luvc_export.runtime.speed_probe.one_row import BITS, is_settled, step_times

    shape = DecoderShape(36, 2048, 16, 2, 128, 11008, 151936, 32768)
    measured = {precision: step_times(precision, shape) for precision in BITS}
    texts = [f"{name} {way} {1000 * spent:.0f} ms" for name, times in measured.items() for way, spent in times.items()]
    return texts, all(is_settled(precision, shape) for precision in BITS)


def _table(machine: dict[str, Any], parts: dict[str, dict[str, Any]], bundle: dict[str, Any]) -> Any:
    facts = (machine | bundle).items()
    rows = [(name, ", ".join(value) if isinstance(value, list) else str(value)) for name, value in facts]
    for name, part in parts.items():
        gone = (("missing", "red"), f" {', '.join(part['missing'])}")
        state = gone if part["missing"] else (("ok", "green"),)
        detail = part["fix"] or ", ".join(f"{package} {number}" for package, number in part["found"].items())
        rows.append((name, styled(*state, f"  {detail}")))
    return table(rows, title="this machine")
