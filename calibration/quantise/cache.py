"""Ranges kept in a file between runs: tied to the graphs, the weights and the data they were collected with."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np

from luvc_export.bundle import Bundle
from luvc_export.calibration.datasets import CalibrationSet
from luvc_export.calibration.quantise.statistics import Statistics
from luvc_export.errors import UsageError

_ARRAYS = ("counts", "largest", "total", "sample")


def about(bundle: Bundle, plan: str, data: CalibrationSet) -> dict[str, Any]:
    """What ranges depend on."""
    entry, manifest = bundle.entry(plan), bundle.manifest
    files = [entry.vision, entry.decoder, *(name for name in manifest.files if name == "weights")]
    return {
        "model": manifest.source.sha256,
        "graphs": [manifest.files[name].sha256 for name in files],
        "data": data.sha256,
        "longest": data.longest,
    }


def save(path: Path, made_for: dict[str, Any], seen: Mapping[str, Statistics]) -> None:
    """Write through a temporary name."""
    arrays = {f"{name}/{part}": getattr(item, part) for name, item in seen.items() for part in _ARRAYS}
    arrays |= {f"{name}/scalars": np.array([item.rows, item.edge]) for name, item in seen.items()}
    path.parent.mkdir(parents=True, exist_ok=True)
    scratch = path.with_name(f".{path.name}.part")
    with scratch.open("wb") as file:
        np.savez_compressed(file, about=np.array(json.dumps(made_for)), **arrays)
    scratch.replace(path)


def load(path: Path, wanted: dict[str, Any]) -> dict[str, Statistics]:
    """Read ranges that were collected for ``wanted``.

    Raises:
        UsageError: The file is no such cache, or of another model, plan or data set.
    """
    try:
        with np.load(path, allow_pickle=False) as file:
            given, arrays = json.loads(str(file["about"])), {name: file[name] for name in file.files}
    except (OSError, ValueError, KeyError, BadZipFile) as error:
        raise UsageError("this file is no cache of ranges", where=str(path), got=str(error)[:200]) from error
    what = {"model": "another model", "graphs": "another plan or export", "data": "another data set"}
    for key, value in wanted.items():
        if given.get(key) != value:
            raise UsageError(
                f"the cached ranges are of {what.get(key, 'another setting')}",
                where=str(path),
                got=f"{key} {_short(given.get(key))}",
                expected=f"{key} {_short(value)}",
                fix="name another --cache file, or delete this one",
            )
    found = {}
    for name in [key.removesuffix("/scalars") for key in arrays if key.endswith("/scalars")]:
        rows, edge = arrays[f"{name}/scalars"]
        found[name] = Statistics(int(rows), float(edge), **{part: arrays[f"{name}/{part}"] for part in _ARRAYS})
    return found


def _short(value: Any) -> str:
    return ", ".join(str(item)[:12] for item in (value if isinstance(value, list) else [value]))
