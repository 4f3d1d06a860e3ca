"""Light runtime: numpy and one back-end, never torch or transformers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if __name__ != "luvc_export.runtime":
    raise ImportError("import luvc_export.runtime, not runtime: the top-level folder is only where the source lies")

if TYPE_CHECKING:
    from luvc_export.runtime.session import Session

__all__ = ["Session"]


def __getattr__(name: str) -> Any:
    if name == "Session":
        from luvc_export.runtime.session import Session

        return Session
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
