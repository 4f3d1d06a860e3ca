"""What every measurement shares: medians on a device, where it ran, and JSON and Markdown of what came out."""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

from luvc_export.errors import MachineError, UsageError
from luvc_export.runtime.cuda.device import Gpu

ROOT = Path(__file__).resolve().parents[2]
#: Only ``luvc_export.trial.check`` writes here.
COMMITTED = ROOT / "docs" / "measurements"
MEASUREMENTS = Path(os.environ.get("OUT", "gpu-check-out"))
_PACKAGES = (
    "luvc-export",
    "torch",
    "transformers",
    "tensorrt",
    "tensorrt-rtx",
    "onnxruntime",
    "onnxruntime-gpu",
    "numpy",
)


def options_of(doc: str | None, models: Sequence[str], runs: int) -> argparse.ArgumentParser:
    """Options of what times models of published sizes."""
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--tiny", action="store_true", help="a small model")
    parser.add_argument("--models", nargs="+", choices=models, default=models)
    parser.add_argument("--sides", type=int, nargs="+", default=(32, 64), help="units of a square image's side")
    parser.add_argument("--text", type=int, default=64)
    parser.add_argument("--runs", type=int, default=runs)
    parser.add_argument("-o", "--out", type=Path, default=MEASUREMENTS)
    return parser


def require_gpu(device: str, out: Path) -> None:
    """Check that ``device`` is there, and that nothing is written among the committed measurements.

    Raises:
        MachineError: There is no GPU, or this torch cannot use it.
        UsageError: Figures would be written to docs/measurements.
    """
    if out.resolve() == COMMITTED.resolve():
        raise UsageError(
            "docs/measurements holds reports that were checked",
            where=f"-o {out}",
            fix="choose another folder; a trial's report goes there with python -m luvc_export.trial.check",
        )
    if device == "cpu":
        return
    Gpu()
    if not torch.cuda.is_available():
        raise MachineError(
            "this torch cannot use the GPU", got=f"torch {torch.__version__}", fix="install a CUDA build"
        )


def machine(device: str) -> dict[str, Any]:
    """Device, driver and versions."""
    facts: dict[str, Any] = {"host": platform.machine(), "python": platform.python_version(), "torch_device": device}
    if device == "cuda":
        info = Gpu().info
        facts |= {"device": info.name, "compute_capability": ".".join(map(str, info.capability))}
        facts |= {"driver_cuda": ".".join(map(str, info.driver)), "driver": _driver_version()}
    else:
        facts["device"] = "CPU"
    return facts | {"versions": {name: version for name in _PACKAGES if (version := _version(name))}}


def median_ms(call: Callable[[], object], device: str, runs: int, warm_up: int = 3) -> float:
    """Median milliseconds of ``call``: CUDA events on a GPU, wall clock on a CPU."""
    times = []
    for run in range(runs + warm_up):
        if device == "cuda":
            start, stop = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            start.record()
            call()
            stop.record()
            stop.synchronize()
            took = start.elapsed_time(stop)
        else:
            began = time.perf_counter()
            call()
            took = (time.perf_counter() - began) * 1e3
        if run >= warm_up:
            times.append(took)
    return statistics.median(times)


def write(out: Path, name: str, title: str, where: dict[str, Any], rows: Sequence[dict[str, Any]]) -> Path:
    """Write ``<name>-<device>.json`` and ``.md``, each through a temporary name; returns the path of the Markdown."""
    out.mkdir(parents=True, exist_ok=True)
    stem = f"{name}-{where['device'].replace(' ', '-')}"
    command = " ".join([Path(sys.argv[0]).name, *sys.argv[1:]])
    data = {"title": title, "command": command, "machine": where, "rows": list(rows)}
    for suffix, text in ((".json", json.dumps(data, indent=1) + "\n"), (".md", _markdown(data))):
        scratch = out / f".{stem}{suffix}.part"
        scratch.write_text(text, encoding="utf-8")
        scratch.replace(out / f"{stem}{suffix}")
    return out / f"{stem}.md"


def _markdown(data: dict[str, Any]) -> str:
    where, columns = data["machine"], list(dict.fromkeys(key for row in data["rows"] for key in row))
    versions = ", ".join(f"{name} {version}" for name, version in where["versions"].items())
    facts = {key: value for key, value in where.items() if key != "versions"} | {"versions": versions}
    lines = [f"# {data['title']}", "", *(f"- {key}: {value}" for key, value in facts.items())]
    lines += [f"- command: `{data['command']}`", "", f"| {' | '.join(columns)} |", "|" + "---|" * len(columns)]
    lines += ["| " + " | ".join(_cell(row.get(column)) for column in columns) + " |" for row in data["rows"]]
    return "\n".join(lines) + "\n"


def _cell(value: Any) -> str:
    return "" if value is None else f"{value:.3g}" if isinstance(value, float) else str(value)


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _driver_version() -> str | None:
    """Version of the kernel module, where Linux says it (Jetsons of JetPack 6 do not)."""
    path = Path("/proc/driver/nvidia/version")
    words = path.read_text(encoding="ascii", errors="replace").split() if path.is_file() else []
    return next((word for word in words if word[:1].isdigit() and "." in word), None)
