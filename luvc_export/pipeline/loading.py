"""A bundle to a session."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from luvc_export.bundle import folder as bundles
from luvc_export.core.options import settled
from luvc_export.errors import Progress

if TYPE_CHECKING:
    from luvc_export.runtime.session import Session
    from luvc_export.runtime.session_options import SessionOptions


def load_bundle(
    folder: str | os.PathLike[str],
    backend: str | None = None,
    plan: str | None = None,
    *,
    options: SessionOptions | None = None,
    progress: Progress | None = None,
    **settings: Any,
) -> Session:
    """Check a bundle and give a session that answers questions about pictures.

    Args:
        folder: Bundle.
        backend: ``cpu``, ``cuda``, ``openvino``, ``openvino:DEVICE``, ``tensorrt``, ``tensorrt:TARGET``, or ``auto``:
            the first that runs the plan here (``luvc_export.runtime.backend_choice``). None for that of ``options``.
        plan: One of the bundle's plans; None for that of ``options``, or the bundle's default.
        options: What else is set; None for what is usual.
        progress: Told (stage, fraction) while large files are hashed.
        **settings: Fields of ``SessionOptions`` by name, which go before those of ``options``. ``allow_unverified``
            loads engines other than those ``luvc.json`` names: an engine is executable code, it may do whatever its
            author wants on this machine. ``auto`` never does. Graphs of strangers then run without a first run in a
            helper process (``luvc_export.runtime.confined.first_run``).

    Raises:
        UsageError: See ``SessionOptions``, or no image size of the bundle is below ``image_tokens``.
        BundleError: The bundle is missing, damaged, unsafe or newer.
        MachineError: The back-end is not installed, or memory is short.
    """
    from luvc_export.runtime.session import Session
    from luvc_export.runtime.session_options import SessionOptions

    own = settled(SessionOptions, options, settings, "load_bundle")
    return Session(bundles.load(folder, own.verify, progress, task=None), backend or own.backend, plan, options=own)
