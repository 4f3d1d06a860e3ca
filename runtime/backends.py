"""Back-ends by name: what ``--backend`` and ``load_bundle(backend=...)`` take."""

from __future__ import annotations

from typing import Any

from luvc_export.bundle.folder import Bundle
from luvc_export.errors import MachineError, UsageError, did_you_mean
from luvc_export.runtime.confined import first_run
from luvc_export.runtime.model import Backend
from luvc_export.runtime.openvino import device as devices
from luvc_export.runtime.openvino.device import ACTIVATION_GROUPS
from luvc_export.runtime.ort import PROVIDERS, OrtBackend
from luvc_export.runtime.paired import PAIRS, PairedBackend, plans

NAMES = ("auto", *PROVIDERS, "openvino", *PAIRS, "tensorrt")
ARITHMETICS = ("auto", "fp32", "bf16", "fp16")
#: Of these a device or a target may be named behind a colon.
_PLACES = ("openvino", "tensorrt")


def check_name(name: str) -> None:
    """Check what a user named, without opening anything.

    Raises:
        UsageError: There is no such back-end.
    """
    kind, colon, place = name.partition(":")
    if kind not in NAMES or (colon and (kind not in _PLACES or not place)):
        raise UsageError("unknown back-end", where="backend", got=repr(name), expected=did_you_mean(name, NAMES))


def open_backend(
    name: str,
    bundle: Bundle,
    plan: str | None = None,
    threads: int | None = None,
    debug: bool = False,
    allow_unverified: bool = False,
    arithmetic: str = "auto",
) -> Backend:
    """Open a back-end. One that is named is opened or refused: nothing takes its place.

    Args:
        name: ``cpu``, ``cuda``, ``openvino`` (on the CPU), ``openvino:DEVICE``, ``tensorrt`` (the bundle's engines,
            TensorRT-RTX's too), ``openvino+cpu`` and ``openvino+openvino`` (prompts on the first, steps on the second,
            see ``paired``), ``tensorrt:TARGET`` where it has engines for several targets, or ``auto``
            (``backend_choice``).
        bundle: A checked bundle.
        plan: Name of a plan; None for the default.
        threads: CPU threads.
        debug: Use the debug decoder.
        allow_unverified: Load engines that are not those ``luvc.json`` names, and run graphs here that nobody ran here
            before (``confined.first_run``). An engine is executable code; ``auto`` never does.
        arithmetic: What products are computed in: ``fp32``, ``bf16``, ``fp16``, or ``auto`` for what the device is best
            at. OpenVINO computes a graph in any of them; the others compute what the graph or the engine is in.

    Raises:
        UsageError: An unknown name or arithmetic, or a back-end that has no debug decoder.
        MachineError: The machine lacks what it needs, the arithmetic included.
        BundleError: The first run of the bundle's graphs, in a helper process, ended that process.
    """
    check_name(name)
    if arithmetic not in ARITHMETICS:
        known = did_you_mean(arithmetic, ARITHMETICS)
        raise UsageError("unknown arithmetic", where="--arithmetic", got=repr(arithmetic), expected=known)
    if name == "auto":
        from luvc_export.runtime.backend_choice import choose

        name = choose(bundle, plan, arithmetic, debug).name
        allow_unverified = False
    if name in PAIRS:
        return _pair(name, bundle, plan, threads, debug, allow_unverified, arithmetic)
    return _open(name, bundle, plan, threads, debug, allow_unverified, arithmetic)


def _open(
    name: str,
    bundle: Bundle,
    plan: str | None,
    threads: int | None,
    debug: bool,
    allow_unverified: bool,
    arithmetic: str,
    **settings: Any,
) -> Backend:
    """One engine; ``settings`` are those that its constructor takes of half a pair. See ``open_backend``."""
    kind, _, place = name.partition(":")
    opened: Backend
    if kind == "openvino":
        from luvc_export.runtime.openvino.backend import OpenVinoBackend

        opened = OpenVinoBackend(bundle, bundle.entry(plan), place, threads, debug, arithmetic, **settings)
    elif kind in PROVIDERS:
        opened = OrtBackend(bundle, bundle.entry(plan), kind, threads, debug, **settings)
    elif debug:
        fix = "use the cpu, cuda or openvino back-end"
        raise UsageError("engines have no debug graph, their prunes cannot be told what to keep", where=name, fix=fix)
    else:
        from luvc_export.runtime.tensorrt.backend import TrtBackend

        opened = TrtBackend(bundle, plan, place or None, allow_unverified=allow_unverified)
    if kind != "openvino" and arithmetic not in ("auto", opened.arithmetic):
        raise MachineError(
            "this back-end computes in what the graph or the engine is in",
            where=f"--backend {name}",
            got=f"--arithmetic {arithmetic}",
            expected=f"auto, {opened.arithmetic}",
            fix="choose --backend openvino, or export with --dtype and leave --arithmetic out",
        )
    if kind != "tensorrt" and not allow_unverified:
        first_run.check(bundle, plan, name, threads, debug, arithmetic)
    return opened


def _pair(
    name: str,
    bundle: Bundle,
    plan: str | None,
    threads: int | None,
    debug: bool,
    allow_unverified: bool,
    arithmetic: str,
) -> PairedBackend:
    """Prompts in ``arithmetic``; steps with fp32 activations, but for the products of a quantised plan that are not.

    Those compute in bf16 where prompts do, and so do steps without codes. Arguments: see ``open_backend``.
    """
    if debug:
        fix = "use the cpu or openvino back-end"
        raise UsageError("two engines have no debug decoder", where=f"--backend {name}", fix=fix)
    second = PAIRS[name]
    first, last = plans(bundle, plan, second)
    quantised, computed = bundle.entry(last).quantised, "fp32"
    settings: dict[str, Any] = {"only_steps": True}
    if second == "openvino":
        best = devices.arithmetic(devices.find(), arithmetic)
        settings |= {"narrow_floats": quantised is not None and best == "bf16", "head": "own"}
        settings["activation_group"] = ACTIVATION_GROUPS.get(quantised.precision) if quantised else None
        computed = arithmetic if quantised is None and first != last else computed
    steps = _open(second, bundle, last, threads, False, allow_unverified, computed, **settings)
    lent = {"head": steps} if second == "openvino" else {}
    prompts = _open("openvino", bundle, first, threads, False, allow_unverified, arithmetic, **lent)
    for half in (prompts, steps):
        if not half.capabilities.host_caches:
            raise MachineError(
                "keys and values of these graphs cannot go from one engine to another",
                where=f"--backend {name}",
                got=f"{half.name}, a bundle in {bundle.manifest.dtype}",
                fix="choose --backend openvino, or export with --dtype fp16 or fp32",
            )
    return PairedBackend(name, prompts, steps)
