"""What ``--backend auto`` takes, and why: the first that runs this plan on this machine.

Engines, then ONNX Runtime on CUDA, then OpenVINO, then ONNX Runtime on the CPU. Engines are executable code, and a
bundle's word for them is its maker's: they are taken only where they were built on this machine or by this user
(``engine_trust``), and then through the same checks as by name.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from luvc_export.bundle.engines import trust as engine_trust
from luvc_export.bundle.engines.checks import check_device, check_library
from luvc_export.bundle.folder import Bundle
from luvc_export.bundle.manifest import EngineEntry
from luvc_export.errors import LuvcError


@dataclass(frozen=True)
class Choice:
    """A back-end's name, and one line for people: what was taken and why nothing before it."""

    name: str
    line: str


def choose(bundle: Bundle, plan: str | None = None, arithmetic: str = "auto", debug: bool = False) -> Choice:
    """Choose a back-end for ``plan``. The last one, ``cpu``, is chosen even where it will be refused.

    Args:
        bundle: A checked bundle.
        plan: Name of a plan; None for the default.
        arithmetic: What must be computed in, or ``auto``.
        debug: The debug decoder is wanted, which engines do not have.
    """
    passed: list[str] = []
    for name, why_not in _candidates(bundle, plan, arithmetic, debug):
        reason = why_not()
        if reason is None:
            return Choice(name, _line(name, passed))
        passed.append(f"{name}: {reason}")
    return Choice("cpu", _line("cpu", passed))


def _candidates(
    bundle: Bundle, plan: str | None, arithmetic: str, debug: bool
) -> list[tuple[str, Callable[[], str | None]]]:
    candidates: list[tuple[str, Callable[[], str | None]]] = []
    wanted = plan or bundle.manifest.default_plan
    for entry in bundle.manifest.engines:
        if entry.plan == wanted and not debug:
            candidates.append((f"tensorrt:{entry.target}", lambda entry=entry: _engines(entry, arithmetic)))  # type: ignore[misc]
    candidates.append(("cuda", lambda: _cuda(bundle, plan, arithmetic)))
    candidates.append(("openvino", lambda: _openvino(bundle, plan, arithmetic)))
    return candidates


def _engines(entry: EngineEntry, arithmetic: str) -> str | None:
    """Nothing of the engines is read: their hashes are in ``luvc.json``, and are checked when they load."""
    if not engine_trust.trusted(entry):
        return "this machine was not told to trust these engines (build them here, or name the back-end)"
    if entry.stripped:
        return "the engines have no weights"
    if arithmetic not in ("auto", entry.precision):
        return f"the engines compute in {entry.precision}"
    try:
        from luvc_export.runtime.cuda.device import Gpu
        from luvc_export.runtime.tensorrt.library import load_library

        library = load_library(entry.backend)
        check_library(entry, entry.backend, library.__version__)
        gpu = Gpu(0)
        check_device(entry, ".".join(map(str, gpu.info.capability)), gpu.info.integrated)
    except LuvcError as error:
        return error.what
    return None


def _cuda(bundle: Bundle, plan: str | None, arithmetic: str) -> str | None:
    dtype, quantised = bundle.manifest.dtype, bundle.entry(plan).quantised
    try:
        from luvc_export.runtime.cuda.device import Gpu
        from luvc_export.runtime.ort import OrtBackend

        OrtBackend(bundle, bundle.entry(plan), "cuda")
        Gpu(0)
    except LuvcError as error:
        return error.what
    if arithmetic not in ("auto", dtype):
        return f"the graphs are in {dtype}"
    if quantised is not None and quantised.precision in ("q8", "q4", "q4f16"):
        return f"{quantised.precision} is for CPUs"
    return None


def _openvino(bundle: Bundle, plan: str | None, arithmetic: str) -> str | None:
    from luvc_export.runtime.openvino.backend import OpenVinoBackend

    try:
        OpenVinoBackend(bundle, bundle.entry(plan), "CPU", arithmetic=arithmetic)
    except LuvcError as error:
        return error.what
    return None


def _line(name: str, passed: list[str]) -> str:
    return f"backend {name}" + (f" ({'; '.join(passed)})" if passed else "")
