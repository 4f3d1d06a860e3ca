"""What ``--backend auto`` takes, and why: the first that runs this plan on this machine.

Engines, then ONNX Runtime on CUDA, then OpenVINO, then ONNX Runtime on the CPU. A plan in 8 or 4 bits gets another
engine than OpenVINO, or other arithmetic, for its steps where that is faster here (``speed_probe.one_row``). Engines
are executable code, and a bundle's word for them is its maker's: they are taken only where they were built on this
machine or by this user (``engine_trust``), and then through the same checks as by name.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

from luvc_export.bundle.engines import checks as engine_checks
from luvc_export.bundle.engines.checks import check_device, check_library
from luvc_export.bundle.folder import Bundle
from luvc_export.bundle.graph_rules import walk_graph
from luvc_export.bundle.manifest import EngineEntry
from luvc_export.core.element_types import BY_PRECISION
from luvc_export.errors import LuvcError
from luvc_export.runtime import memory
from luvc_export.runtime.model import Backend
from luvc_export.runtime.paired import PAIRS, plans
from luvc_export.runtime.speed_probe import one_row

#: Times as fast as OpenVINO alone that a pair must be: it holds weights of both.
WORTH = 1.1
#: What a head is called among a quantised plan's layers; tied ones have the name of the table.
_HEADS = ("lm_head", "embed_tokens")


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
    for name, why, why_not in _candidates(bundle, plan, arithmetic, debug):
        reason = why_not()
        if reason is None:
            return Choice(name, _line(name + why, passed))
        passed.append(f"{name}: {reason}")
    return Choice("cpu", _line("cpu", passed))


def behind(backend: Backend, arithmetic: str) -> list[tuple[str, str]]:
    """Names and arithmetics to try where what was chosen does not load the graphs: OpenVINO in fp32, then ``cpu``.

    Args:
        backend: What was chosen, and refused them.
        arithmetic: What must be computed in, or ``auto``.
    """
    rest = [("openvino", arithmetic), ("openvino", "fp32"), ("cpu", arithmetic)]
    if backend.name.startswith("openvino:"):
        rest = rest[1 + (backend.arithmetic == "fp32") :]
    return [] if backend.name == "cpu" else [one for one in rest if arithmetic in ("auto", one[1])]


def refusal(bundle: Bundle) -> str | None:
    """Why no back-end of this machine opens a bundle's default plan, engines aside; None where one does."""
    from luvc_export.runtime.ort import OrtBackend

    try:
        OrtBackend(bundle, bundle.entry(None), "cpu")
        reason = "ONNX Runtime has no products in bf16 on a CPU" if bundle.manifest.dtype == "bf16" else None
    except LuvcError as error:
        reason = error.what
    if reason is None:
        return None
    others = [(name, why_not()) for name, _, why_not in _candidates(bundle, None, "auto", debug=True)]
    if not all(why for _, why in others):
        return None
    return "; ".join(f"{name}: {why}" for name, why in [*others, ("cpu", reason)])


def _candidates(
    bundle: Bundle, plan: str | None, arithmetic: str, debug: bool
) -> Iterator[tuple[str, str, Callable[[], str | None]]]:
    """Names in order, why each would be taken, and what tells why not; products are tried where nothing before runs."""
    wanted = plan or bundle.manifest.default_plan
    for entry in bundle.manifest.engines:
        if entry.plan == wanted and not debug:
            yield f"tensorrt:{entry.target}", "", partial(_engines, entry, arithmetic)
    yield "cuda", "", partial(_cuda, bundle, plan, arithmetic)
    times = {} if debug or arithmetic != "auto" else step_times(bundle, plan)
    alone = times.pop("openvino", 0.0)
    for name in sorted(times, key=lambda name: times[name]):
        if name in PAIRS and WORTH * times[name] < alone:
            why = f": products of a step {1000 * times[name]:.2f} ms, openvino alone {1000 * alone:.2f} ms"
            yield name, why, partial(_pair, bundle, plan)
    if not debug and arithmetic == "auto" and _reads_floats(bundle, plan):
        yield "openvino+openvino", ": steps read weights in 16 bits where they lie", partial(_pair, bundle, plan)
    yield "openvino", "", partial(_openvino, bundle, plan, arithmetic)


def step_times(bundle: Bundle, plan: str | None) -> dict[str, float]:
    """Seconds of a step's products by back-end, of plans in codes whose own plan is there too."""
    quantised = bundle.entry(plan).quantised
    there = len({*plans(bundle, plan, "cpu")}) == 2
    if quantised is None or quantised.precision not in one_row.BITS or not there:
        return {}
    coded = {name for name, kept in quantised.layers.items() if kept == quantised.precision}
    coded_head = any(part in name for part in _HEADS for name in coded)
    return dict(one_row.step_times(quantised.precision, bundle.manifest.decoder, coded_head=coded_head))


def _reads_floats(bundle: Bundle, plan: str | None) -> bool:
    """Whether steps of a plan in INT8 are those of the plan it was quantised from: its weights are read in place."""
    from luvc_export.runtime.openvino import device as devices

    prompts, steps = plans(bundle, plan, "openvino")
    if steps == prompts or bundle.entry(prompts).quantised is None:
        return False
    try:
        device = devices.find()
        in_place = devices.reads_in_place(device, device.best)
    except LuvcError:
        return False
    outside, _ = walk_graph(bundle.read(name := bundle.entry(steps).decoder), str(bundle.folder / name))
    narrow = sum(tensor.bytes or 0 for tensor in outside if tensor.kind == BY_PRECISION["bf16"].onnx)
    return in_place and 2 * narrow > sum(tensor.bytes or 0 for tensor in outside)


def _pair(bundle: Bundle, plan: str | None) -> str | None:
    why_not = _openvino(bundle, plans(bundle, plan, "cpu")[0], "auto")
    if why_not is None:
        manifest = bundle.manifest
        stored = sum(tensor.bytes for tensor in manifest.weights.tensors.values())
        needed, free = 2 * stored or sum(file.bytes for file in manifest.files.values()), memory.available_bytes()
        if free is not None and needed > free:
            return f"{memory.gib(needed)} for two engines and {memory.gib(free)} free"
    return why_not


def _engines(entry: EngineEntry, arithmetic: str) -> str | None:
    """Nothing of the engines is read: their hashes are in ``luvc.json``, and are checked when they load."""
    if not engine_checks.trusted(entry):
        return "this machine was not told to trust these engines (build them here, or name the back-end)"
    if entry.stripped:
        return "the engines have no weights"
    if arithmetic not in ("auto", entry.precision):
        return f"the engines compute in {entry.precision}"
    try:
        from luvc_export.runtime.cuda.device import Gpu
        from luvc_export.runtime.tensorrt.engine import load_library

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
