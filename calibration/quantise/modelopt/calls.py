"""What enters the graphs of a plan while it answers: every call as arrays by input name, in one npz file a graph."""

from __future__ import annotations

import zipfile
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

from luvc_export.bundle.folder import Bundle
from luvc_export.calibration.datasets import CalibrationSet
from luvc_export.calibration.runners import open_bundle
from luvc_export.calibration.runners.bundle import BundleCalls, Relay
from luvc_export.core import graph_io
from luvc_export.core.plan import Plan
from luvc_export.core.progress import Progress
from luvc_export.runtime.adapters.factors import with_empty_slots
from luvc_export.runtime.media.unit_choice import unit_inputs
from luvc_export.runtime.model import Array, Backend, Cache
from luvc_export.runtime.state import empty_states

INPUTS = "inputs.npz"


def record(
    bundle: Bundle,
    plan: str,
    data: CalibrationSet,
    folders: Mapping[str, Path],
    threads: int | None = None,
    progress: Progress = lambda stage, done: None,
) -> None:
    """Write ``INPUTS`` to the folders of ``vision`` and ``decoder``: all calls of the answers to ``data``.

    Cases run one at a time, prefill and answer, as ranges are collected. An array is called ``NUMBER/INPUT``.

    Raises:
        UsageError: A picture cannot be prepared.
    """
    runner = open_bundle(str(bundle.folder), plan, threads)
    assert isinstance(runner.calls, BundleCalls)
    with _Calls(folders["vision"] / INPUTS) as vision, _Calls(folders["decoder"] / INPUTS) as decoder:
        runner.calls.free = _Recording(runner.calls.free, bundle, runner.plan, vision, decoder)
        for number, case in enumerate(data.cases):
            runner.answer([case], data.longest)
            progress("recording calls", (number + 1) / len(data.cases))


class _Calls:
    """An npz file that grows by a call at a time, uncompressed."""

    def __init__(self, path: Path) -> None:
        self._file = zipfile.ZipFile(path, "w", zipfile.ZIP_STORED, allowZip64=True)
        self._count = 0

    def __enter__(self) -> _Calls:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()

    def add(self, feeds: Mapping[str, Array]) -> None:
        """Write one call."""
        for name, array in feeds.items():
            with self._file.open(f"{self._count:06d}/{name}.npy", "w", force_zip64=True) as entry:
                np.lib.format.write_array(entry, np.ascontiguousarray(array), allow_pickle=False)
        self._count += 1


class _Recording(Relay):
    """A back-end that writes down what it is asked; see ``Backend``."""

    def __init__(self, inner: Backend, bundle: Bundle, plan: Plan, vision: _Calls, decoder: _Calls) -> None:
        self._plan, self._slots = plan, bundle.manifest.lora
        super().__init__(inner)
        self._shape, self._vision, self._decoder = bundle.manifest.decoder, vision, decoder

    def vision(self, images: Any, beside: Any = None) -> dict[str, Array]:
        extra_inputs = unit_inputs(self._plan, len(images), beside)
        self._vision.add({graph_io.IMAGE: np.asarray(images, np.uint8), **extra_inputs})
        return self._inner.vision(images, beside)

    def decode(self, feeds: Mapping[str, Array], cache: Cache | None) -> tuple[dict[str, Array], Any]:
        names = [state.past for state in self._shape.kept]
        rows = len(feeds[graph_io.INPUT_IDS])
        past = empty_states(self._shape.kept, rows) if cache is None else cache.arrays()
        named = {*graph_io.decoder_inputs(self._plan), *(self._slots.inputs if self._slots else ())}
        known = {name: array for name, array in with_empty_slots(feeds, self._slots).items() if name in named}
        self._decoder.add({**known, **dict(zip(names, past, strict=True))})
        return self._inner.decode(feeds, cache)
