"""``libluvc_plugins.so`` in a plugin registry of TensorRT: a builder's before parsing, a runtime's before an engine."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from luvc_export.core.operators import NAMESPACE, OPERATORS, VERSION
from luvc_export.errors import MachineError, UsageError

_BUILD = "build it with TENSORRT_ROOT at the TensorRT that loads it (plugins/README.md)"
_KEPT_LINES = 3


def register(registry: Any, library: Path, log: Sequence[tuple[object, str]] = (), where: str | None = None) -> None:
    """Load the plugins of ``library`` and check that every operator of the contract has its creator.

    Args:
        registry: ``IPluginRegistry`` of a builder or a runtime, which must live as long as the plugins are used.
        library: The file; it runs code of its own when it loads.
        log: What TensorRT says, as (severity, text), growing while it does.
        where: What errors call the file; None for its path.

    Raises:
        MachineError: TensorRT refuses the library: none of plugins, or for another machine or major version.
        UsageError: It loads, but lacks an operator.
    """
    named, before = where or str(library), len(log)
    if registry.load_library(str(library)) is None:
        lines = [text.strip()[:300] for _, text in log[before:][:_KEPT_LINES]]
        raise MachineError(
            "TensorRT did not load the plugins",
            where=named,
            got=" | ".join(lines) or "nothing in the log",
            expected="libluvc_plugins.so, built for this machine and this major version of TensorRT",
            fix=_BUILD,
        )
    missing = [name for name in OPERATORS if registry.get_creator(name, VERSION, NAMESPACE) is None]
    if missing:
        raise UsageError(
            "this library lacks plugins that the graphs may call",
            where=named,
            got=f"no {', no '.join(missing)}",
            expected=f"creators of {', '.join(OPERATORS)}, namespace {NAMESPACE}, version {VERSION}",
            fix=_BUILD,
        )
