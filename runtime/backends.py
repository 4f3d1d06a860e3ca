"""Back-ends by name: what ``--backend`` and ``load_bundle(backend=...)`` take."""

from __future__ import annotations

from luvc_export.bundle.folder import Bundle
from luvc_export.errors import UsageError, did_you_mean
from luvc_export.runtime.backend import Backend
from luvc_export.runtime.ort import PROVIDERS, OrtBackend

NAMES = (*PROVIDERS, "tensorrt")


def open_backend(
    name: str,
    bundle: Bundle,
    plan: str | None = None,
    threads: int | None = None,
    debug: bool = False,
    allow_unverified: bool = False,
) -> Backend:
    """Open a back-end.

    Args:
        name: ``cpu``, ``cuda``, ``tensorrt`` (the bundle's engines, TensorRT-RTX's too), or ``tensorrt:TARGET`` where
            it has engines for several targets.
        bundle: A checked bundle.
        plan: Name of a plan; None for the default.
        threads: CPU threads.
        debug: Use the debug decoder.
        allow_unverified: Load engines that are not those ``luvc.json`` names. An engine is executable code.

    Raises:
        UsageError: An unknown name, or one that has no debug decoder.
        MachineError: The machine lacks what it needs.
    """
    kind, _, target = name.partition(":")
    if kind not in NAMES or (target and kind != "tensorrt"):
        raise UsageError("unknown back-end", where="backend", got=repr(name), expected=did_you_mean(name, NAMES))
    if kind in PROVIDERS:
        return OrtBackend(bundle, bundle.entry(plan), kind, threads, debug)
    if debug:
        fix = "use the cpu or cuda back-end"
        raise UsageError("engines have no debug graph, their prunes cannot be told what to keep", where=name, fix=fix)
    from luvc_export.runtime.tensorrt.backend import TrtBackend

    return TrtBackend(bundle, plan, target or None, allow_unverified=allow_unverified)
