"""Ask nvidia-modelopt for scales: record calls, write the folder, run the worker with the other Python, read back."""

from __future__ import annotations

import json
import shutil
import subprocess
import zipfile
from collections.abc import Collection, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir

from luvc_export.bundle.folder import Bundle
from luvc_export.calibration.datasets import CalibrationSet
from luvc_export.calibration.quantise.modelopt import graph
from luvc_export.calibration.quantise.ranges import Relay, watch
from luvc_export.calibration.quantise.recipe import Recipe, Scales
from luvc_export.core import graph_io
from luvc_export.core.files.folders import fresh, make_folder
from luvc_export.core.files.safe_files import temporary_folder, write_new
from luvc_export.core.plan import Plan
from luvc_export.errors import MachineError, Progress, UsageError
from luvc_export.runtime.host_backend import empty_states, unit_inputs, with_empty_slots
from luvc_export.runtime.model import Array, Backend, Cache

INPUTS = "inputs.npz"


def record_calls(
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
    with ExitStack() as files:
        paths = (folders[part] / INPUTS for part in ("vision", "decoder"))
        written = (zipfile.ZipFile(path, "w", zipfile.ZIP_STORED, allowZip64=True) for path in paths)
        vision, decoder = (_Calls(files.enter_context(file)) for file in written)

        def recording(free: Backend) -> Backend:
            return _Recording(free, bundle, bundle.entry(plan).plan, vision, decoder)

        watch(bundle.folder, plan, recording, data, "recording calls", threads, progress)


class _Calls:
    """An npz file that grows by a call at a time, uncompressed."""

    def __init__(self, file: zipfile.ZipFile) -> None:
        self._file, self._count = file, 0

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


#: What was run from end to end with nvidia-modelopt 0.47.0 (docs/calibration.md).
PRECISIONS, METHODS = ("int8",), ("max", "entropy")
WORKER = Path(__file__).with_name("worker.py")
_LAST_LINES = 12


@dataclass(frozen=True)
class ModelOpt:
    """nvidia-modelopt in another environment.

    Args:
        python: The Python of an environment that has it.
        worker: What that Python runs; see ``worker``.
    """

    python: Path
    worker: Path = WORKER

    def check(self, bundle: Bundle, recipe: Recipe) -> str:
        """Check that it can do what is asked for; its version.

        Raises:
            UsageError: Another precision, range or dtype than it is offered for.
            MachineError: The environment lacks it, or has too old a one.
        """
        for name, got, known in (
            ("--precision", recipe.precision.name, PRECISIONS),
            ("--range", recipe.method, METHODS),
            ("--smooth", f"{recipe.smooth:g}", ("0",)),
            ("dtype of the bundle", bundle.manifest.dtype, ("fp32",)),
        ):
            if got not in known:
                raise UsageError(
                    "this was not seen to work with nvidia-modelopt",
                    where=name,
                    got=got,
                    expected=", ".join(known),
                    fix="leave out --backend modelopt, or change this",
                )
        with temporary_folder("luvc-modelopt") as folder:
            return self._run(["--version"], folder).strip()

    def scales(
        self,
        models: Mapping[str, ir.Model],
        recipe: Recipe,
        bundle: Bundle,
        plan: str,
        data: CalibrationSet,
        keep: Collection[str] = (),
        threads: int | None = None,
        progress: Progress = lambda stage, done: None,
    ) -> dict[str, Scales | str]:
        """Decisions by site: scales, or why it stays high. Sites that are high anyway are not asked about.

        ``models`` are the graphs ``vision`` and ``decoder`` of ``plan``, of no use afterwards; ``recipe`` is checked,
        ``keep`` are sites that stay high because the user wants it; ``threads`` are of the recording alone.

        Raises:
            MachineError: The worker failed; its last lines are in the text.
            CheckFailed: What it decided does not fit our graphs.
        """
        decisions: dict[str, Scales | str] = {}
        with temporary_folder("luvc-modelopt") as scratch:
            folders = {name: scratch / name for name in models}
            products = {}
            for name, model in models.items():
                make_folder(folders[name])
                products[name] = graph.write(model, folders[name], keep)
                request = {
                    "mode": recipe.precision.name,
                    "method": recipe.method,
                    "operators": ["MatMul"],
                    "products": list(products[name]),
                }
                write_new(folders[name] / "request.json", json.dumps(request, indent=1).encode())
            record_calls(bundle, plan, data, folders, threads, progress)
            for number, (name, folder) in enumerate(folders.items()):
                progress(f"nvidia-modelopt on {name}", number / len(folders))
                self._run([str(folder)], folder)
                decisions |= graph.read(folder / graph.RESULT, products[name])
        return decisions

    def _run(self, words: list[str], folder: Path) -> str:
        """Run the worker in ``folder``; what it printed. It ends with this process, also on Ctrl-C."""
        program = shutil.which(self.python)
        if program is None:
            raise UsageError(
                "this Python cannot be run",
                where="--modelopt-python",
                got=str(self.python),
                expected="the Python of an environment with nvidia-modelopt",
            )
        # -I: the worker's own folder is not searched for modules, nor are this environment's variables read.
        command = [str(Path(program).absolute()), "-I", str(self.worker), *words]
        log_file = folder / "worker.log"
        with fresh(log_file) as log:
            process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT, cwd=folder
            )
            try:
                code = process.wait()
            finally:
                process.kill()
                process.wait()
        text = log_file.read_text(encoding="utf-8", errors="replace")
        if code:
            last = "\n    ".join(text.strip().splitlines()[-_LAST_LINES:])
            raise MachineError(
                "nvidia-modelopt failed",
                where=str(self.python),
                got=f"exit code {code}, last lines:\n    {last or '(none)'}",
                fix="see docs/calibration.md for an environment that works, or leave out --backend modelopt",
            )
        return text
