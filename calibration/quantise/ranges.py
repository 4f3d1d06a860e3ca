"""Statistics of what enters every site, collected on a plan's own compressed graphs: pruned layers see what is kept.

Cases run one at a time, prefill and answer, so that no padding is counted; a picture goes through the encoder once.
Graphs in bf16 compute in fp32 for it (``runners.probes.widen``).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np
import onnx_ir as ir

from luvc_export.bundle.folder import Bundle
from luvc_export.calibration.datasets import CalibrationSet
from luvc_export.calibration.pairs import Pairs
from luvc_export.calibration.quantise.sites import sites
from luvc_export.calibration.quantise.statistics import Statistics
from luvc_export.calibration.runners import open_bundle
from luvc_export.calibration.runners.bundle import BundleCalls
from luvc_export.calibration.runners.probes import read_model, write_copy
from luvc_export.core.files.safe_files import temporary_folder, whole, write_new
from luvc_export.errors import Progress, UsageError
from luvc_export.runtime.model import Array, Backend, Cache

_MARK = "luvc.enters."


def collect(
    bundle: Bundle,
    plan: str | None,
    data: CalibrationSet,
    threads: int | None = None,
    progress: Progress = lambda stage, done: None,
) -> dict[str, Statistics]:
    """Statistics by site of both graphs of ``plan`` over ``data``.

    Raises:
        UsageError: A picture cannot be prepared.
    """
    statistics: dict[str, Statistics] = {}
    with temporary_folder("luvc-ranges") as folder:
        owners = _write_watched(bundle, plan, folder)
        watch(
            folder, plan, lambda free: _Watching(free, owners, statistics), data, "collecting ranges", threads, progress
        )
    return statistics


def collected(
    bundle: Bundle, plan: str, data: CalibrationSet, file: Path | None, threads: int | None, progress: Progress
) -> dict[str, Statistics]:
    """``collect``, or what ``file`` keeps of the same graphs and data; it keeps what is collected.

    Raises:
        UsageError: A picture cannot be prepared, or the file holds ranges of others.
    """
    wanted = description(bundle, plan, data)
    if file is not None and file.exists():
        return load_ranges(file, wanted)
    seen = collect(bundle, plan, data, threads, progress)
    if file is not None:
        save_ranges(file, wanted, seen)
    return seen


def watch(
    folder: Path,
    plan: str | None,
    wrap: Callable[[Backend], Backend],
    data: CalibrationSet,
    stage: str,
    threads: int | None,
    progress: Progress,
) -> None:
    """Answer ``data`` with a plan of the bundle in ``folder``, a case at a time, through what ``wrap`` makes.

    Raises:
        UsageError: A picture cannot be prepared.
    """
    runner = open_bundle(str(folder), plan, threads)
    assert isinstance(runner.calls, BundleCalls)
    runner.calls.free = wrap(runner.calls.free)
    decodes = runner.prompting.manifest.does.decodes
    cases = data.cases if decodes else Pairs(data.cases, data.name).inputs
    for number, case in enumerate(cases):
        if decodes:
            runner.answer([case], data.longest)
        else:
            runner.observe([case])
        progress(stage, (number + 1) / len(cases))


class Relay(Backend):
    """A back-end that hands every call to another, for those that look at or write down what passes."""

    def __init__(self, inner: Backend) -> None:
        self._inner = inner
        self.name, self.arithmetic, self.capabilities = inner.name, inner.arithmetic, inner.capabilities
        self.states = inner.states

    def load(self, images: bool = True) -> None:
        """See ``Backend.load``."""
        self._inner.load(images)

    def placement(self) -> dict[str, dict[str, int]]:
        """See ``Backend.placement``."""
        return self._inner.placement()

    def vision(self, images: Any, beside: Any = None) -> dict[str, Array]:
        """See ``Backend.vision``."""
        return self._inner.vision(images, beside)

    def decode(self, feeds: Mapping[str, Array], cache: Any) -> tuple[dict[str, Array], Any]:
        """See ``Backend.decode``."""
        return self._inner.decode(feeds, cache)


class _Watching(Relay):
    """A back-end that hands every marked output to the statistics of its sites; those of the same outputs share one."""

    def __init__(self, inner: Backend, owners: Mapping[str, list[str]], statistics: dict[str, Statistics]) -> None:
        super().__init__(inner)
        self._owners, self._found = owners, statistics
        self._outputs: dict[str, tuple[str, ...]] = {}
        for output, sites_ in owners.items():
            for site in sites_:
                self._outputs[site] = (*self._outputs.get(site, ()), output)
        self._shared: dict[tuple[str, ...], Statistics] = {}

    def vision(self, images: Any, beside: Any = None) -> dict[str, Array]:
        return self._take(self._inner.vision(images, beside))

    def decode(self, feeds: Mapping[str, Array], cache: Cache | None) -> tuple[dict[str, Array], Any]:
        out, after = self._inner.decode(feeds, cache)
        return self._take(out), after

    def _take(self, out: dict[str, Array]) -> dict[str, Array]:
        for name in [name for name in out if name.startswith(_MARK)]:
            array = out.pop(name)
            for outputs in dict.fromkeys(self._outputs[site] for site in self._owners[name]):
                self._shared.setdefault(outputs, Statistics()).add(array)
            for site in self._owners[name]:
                self._found[site] = self._shared[self._outputs[site]]
        return out


def _write_watched(bundle: Bundle, plan: str | None, folder: Path) -> dict[str, list[str]]:
    """Write a copy of a bundle whose graphs of ``plan`` also give what enters their sites; give sites by output."""
    entry = bundle.entry(plan)
    owners: dict[str, list[str]] = {}
    for name in (entry.vision, entry.decoder):
        model = read_model(bundle, name)
        owners |= _mark(model.graph, f"{_MARK}{name}.")
        write_new(folder / name, ir.to_proto(model).SerializeToString())
    write_copy(bundle, folder, (entry.vision, entry.decoder))
    return owners


def _mark(graph: ir.Graph, prefix: str) -> dict[str, list[str]]:
    """Make every site's activation an output ``PREFIX...``; sites by output."""
    owners: dict[str, list[str]] = {}
    for name, site in sites(graph).items():
        for product in site.products:
            activation = product.inputs[0]
            assert activation is not None
            output = f"{prefix}{activation.name}"
            if output not in owners:
                node = ir.node("Identity", [activation])
                node.outputs[0].name, node.outputs[0].type = output, activation.type or ir.TensorType(ir.DataType.FLOAT)
                graph.append(node)
                graph.outputs.append(node.outputs[0])
            owners.setdefault(output, []).append(name)
    return owners


_ARRAYS = ("counts", "largest", "total", "sample")


def description(bundle: Bundle, plan: str, data: CalibrationSet) -> dict[str, Any]:
    """What ranges depend on."""
    entry, manifest = bundle.entry(plan), bundle.manifest
    files = [entry.vision, entry.decoder, *(name for name in manifest.files if name == "weights")]
    return {
        "model": manifest.source.sha256,
        "graphs": [manifest.files[name].sha256 for name in files],
        "data": data.sha256,
        "longest": data.longest,
    }


def save_ranges(path: Path, made_for: dict[str, Any], seen: Mapping[str, Statistics]) -> None:
    """Write whole or not at all."""
    arrays = {f"{name}/{part}": getattr(item, part) for name, item in seen.items() for part in _ARRAYS}
    arrays |= {f"{name}/scalars": np.array([item.rows, item.edge]) for name, item in seen.items()}
    with whole(path) as file:
        np.savez_compressed(file, about=np.array(json.dumps(made_for)), **arrays)


def load_ranges(path: Path, wanted: dict[str, Any]) -> dict[str, Statistics]:
    """Read ranges that were collected for ``wanted``.

    Raises:
        UsageError: The file is no such cache, or of another model, plan or data set.
    """
    try:
        with np.load(path, allow_pickle=False) as file:
            about, arrays = json.loads(str(file["about"])), {name: file[name] for name in file.files}
    except (OSError, ValueError, KeyError, BadZipFile) as error:
        raise UsageError("this file is no cache of ranges", where=str(path), got=str(error)[:200]) from error
    what = {"model": "another model", "graphs": "another plan or export", "data": "another data set"}
    for key, value in wanted.items():
        if about.get(key) != value:
            raise UsageError(
                f"the cached ranges are of {what.get(key, 'another setting')}",
                where=str(path),
                got=f"{key} {_short(about.get(key))}",
                expected=f"{key} {_short(value)}",
                fix="name another --cache file, or delete this one",
            )
    statistics = {}
    for name in [key.removesuffix("/scalars") for key in arrays if key.endswith("/scalars")]:
        rows, edge = arrays[f"{name}/scalars"]
        statistics[name] = Statistics(int(rows), float(edge), **{part: arrays[f"{name}/{part}"] for part in _ARRAYS})
    return statistics


def _short(value: Any) -> str:
    return ", ".join(str(item)[:12] for item in (value if isinstance(value, list) else [value]))
