"""``luvc-export doctor``."""

from __future__ import annotations

import json
import os
import platform
import shutil
from contextlib import suppress
from importlib import import_module
from typing import Annotated, Any

import typer

from luvc_export.cli import options
from luvc_export.errors import MachineError, UsageError, did_you_mean

#: What each part of the tool needs: distribution names, and the extra that brings them.
PARTS = {
    "run on CPU": (("onnxruntime", "numpy", "pillow", "tokenizers", "jinja2"), "cpu"),
    "OpenVINO": (("openvino", "numpy", "pillow", "tokenizers", "jinja2"), "openvino"),
    "export": (("torch", "transformers", "onnx", "onnxscript", "safetensors"), "export"),
    "demo pictures, plots": (("matplotlib",), "report"),
    "TensorRT-RTX": (("tensorrt-rtx",), "rtx"),
    "TensorRT": (("tensorrt",), None),
}


def doctor(
    need: Annotated[
        list[str] | None,
        typer.Option("--need", help="Exit 3 unless this part works, such as export; repeat. Default: run on CPU."),
    ] = None,
    as_json: options.Json = False,
) -> None:
    """Say what works on this machine, and how to get what does not.

    [dim]luvc-export doctor[/dim]
    """
    from luvc_export.runtime.cpu_features import cpu_features
    from luvc_export.runtime.memory import available_bytes

    needed = [_named(name) for name in need or ["run on CPU"]]
    memory = available_bytes()
    parts = {name: _part(*spec) for name, spec in PARTS.items()}
    machine = {
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}",
        "cpus": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "memory_gib": round(memory / 2**30, 1) if memory else None,
        "disk_gib": round(shutil.disk_usage(".").free / 2**30, 1),
        "cpu_features": cpu_features(),
        "onnxruntime_providers": _providers(),
        "openvino_devices": _devices(),
        "products": _products(),
    }
    if as_json:
        print(json.dumps({"machine": machine, "parts": parts}))
    else:
        _print(machine, parts)
    for name in needed:
        if parts[name]["missing"]:
            raise MachineError(f"{name} does not work here", got=parts[name]["missing"], fix=parts[name]["fix"])


def _named(name: str) -> str:
    """The shortest part that begins with ``name``, in any case: ``tensorrt`` is not ``TensorRT-RTX``."""
    match = min((part for part in PARTS if name and part.lower().startswith(name.lower())), key=len, default=None)
    if match is None:
        raise UsageError("unknown part", where="--need", got=repr(name), expected=did_you_mean(name, PARTS))
    return match


def _part(packages: tuple[str, ...], extra: str | None) -> dict[str, Any]:
    from importlib.metadata import PackageNotFoundError, version  # slow to import, and --help needs none of it

    found, missing = {}, []
    for package in packages:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            missing.append(package)
    fix = f"pip install 'luvc-export[{extra}]'" if extra else "comes with JetPack, or from NVIDIA's package index"
    return {"found": found, "missing": missing, "fix": fix if missing else None}


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
        found = [device.describe(str(name)) for name in device.core().available_devices]
    except (LuvcError, RuntimeError):
        return []
    return [f"{item.name}: {item.title}, {', '.join(item.arithmetics)}; best in {item.best}" for item in found]


def _products() -> list[str]:
    """Arithmetic that an engine computes wrong on this CPU, and what is done about it; what it computes right."""
    from luvc_export.errors import LuvcError
    from luvc_export.runtime.openvino import device
    from luvc_export.runtime.product_check import engines
    from luvc_export.runtime.product_check.check import Checked

    checks: list[Checked] = []
    notes: list[str] = []
    with suppress(ImportError):
        checks.append(engines.onnxruntime_int8())
    with suppress(LuvcError, RuntimeError):
        notes += device.find().notes
        checks.append(engines.openvino_int8(device.core(), "CPU"))
    return notes + [checked.note or f"{checked.engine}: {checked.arithmetic} is exact" for checked in checks]


def _print(machine: dict[str, Any], parts: dict[str, dict[str, Any]]) -> None:
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    table = Table(title="this machine", show_header=False)
    for name, value in machine.items():
        table.add_row(name, ", ".join(value) if isinstance(value, list) else str(value))
    for name, part in parts.items():
        state = "[red]missing[/red] " + ", ".join(part["missing"]) if part["missing"] else "[green]ok[/green]"
        detail = part["fix"] or ", ".join(f"{package} {number}" for package, number in part["found"].items())
        table.add_row(name, f"{state}  {escape(detail)}")
    Console().print(table)
