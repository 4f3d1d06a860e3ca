"""A bundle to a session."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from luvc_export.bundle import folder as bundles
from luvc_export.core.progress import Progress

if TYPE_CHECKING:
    from luvc_export.runtime.session import Session


def load_bundle(
    folder: str | os.PathLike[str],
    backend: str | None = None,
    plan: str | None = None,
    *,
    threads: int | None = None,
    verify: bool = False,
    allow_unverified: bool = False,
    arithmetic: str = "auto",
    speculate: str | None = None,
    progress: Progress | None = None,
    image_tokens: int | None = None,
    lora: Mapping[str, str | os.PathLike[str]] | None = None,
    remember: int = 0,
) -> Session:
    """Check a bundle and give a session that answers questions about pictures.

    Args:
        folder: Bundle.
        backend: ``cpu``, ``cuda``, ``openvino``, ``openvino:DEVICE``, ``tensorrt``, ``tensorrt:TARGET``, or ``auto``
            (default): the first that runs the plan here, see ``luvc_export.runtime.backend_choice``.
        plan: One of the bundle's plans; None for its default.
        threads: CPU threads; None for all cores.
        verify: Hash large files again, even where it is remembered that they were hashed.
        allow_unverified: Load engines other than those ``luvc.json`` names. An engine is executable code: it may do
            whatever its author wants on this machine. ``auto`` never does. Graphs of strangers run here without a
            first run in a helper process (``luvc_export.runtime.confined.first_run``).
        arithmetic: ``fp32``, ``bf16``, ``fp16``, or ``auto`` for what the device is best at.
        speculate: ``lookup`` or ``lookup:N``: several tokens a step, see ``luvc_export.runtime.speculation``.
        progress: Told (stage, fraction) while large files are hashed.
        image_tokens: Most visual tokens of a picture; see ``Session``.
        lora: Folders of peft adapters by name; see ``Session``.
        remember: Groups of images whose features are kept for later questions; see ``Session``.

    Raises:
        UsageError: No image size of the bundle is below ``image_tokens``.
        BundleError: The bundle is missing, damaged, unsafe or newer.
        MachineError: The back-end is not installed, or memory is short.
    """
    from luvc_export.runtime.backends import open_backend
    from luvc_export.runtime.session import Session

    bundle, chosen = bundles.load(folder, verify, progress), backend or "auto"
    how: dict[str, Any] = {"image_tokens": image_tokens, "speculate": speculate, "lora": lora, "remember": remember}
    if allow_unverified and chosen != "auto":
        opened = open_backend(chosen, bundle, plan, threads, allow_unverified=True, arithmetic=arithmetic)
        return Session(bundle, opened, plan, threads, **how)
    return Session(bundle, chosen, plan, threads, arithmetic=arithmetic, **how)
