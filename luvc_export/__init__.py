"""LUVC visual-token compression inside exported graphs: checkpoint in, ONNX bundle and engines out.

The public API is a few verbs, a loader, ``compressed`` for transformers models, and what they take and give. Each is
imported when first used, so that ``import luvc_export`` needs neither torch nor onnxruntime.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from luvc_export.version import VERSION

if TYPE_CHECKING:
    from luvc_export.core.plan import Plan as Plan
    from luvc_export.export.compression.placement import compressed as compressed
    from luvc_export.pipeline import build_engine as build_engine
    from luvc_export.pipeline import export_bundle as export_bundle
    from luvc_export.pipeline import load_bundle as load_bundle
    from luvc_export.pipeline import make_plan as make_plan
    from luvc_export.pipeline import make_plans as make_plans
    from luvc_export.runtime.generation.result import Generation as Generation
    from luvc_export.runtime.generation.sampling import Sampling as Sampling
    from luvc_export.runtime.session import Session as Session

__version__ = VERSION

_PUBLIC = {
    "Generation": "luvc_export.runtime.generation.result",
    "Plan": "luvc_export.core.plan",
    "Sampling": "luvc_export.runtime.generation.sampling",
    "Session": "luvc_export.runtime.session",
    "build_engine": "luvc_export.pipeline",
    "compressed": "luvc_export.export.compression.placement",
    "export_bundle": "luvc_export.pipeline",
    "load_bundle": "luvc_export.pipeline",
    "make_plan": "luvc_export.pipeline",
    "make_plans": "luvc_export.pipeline",
}
__all__ = ["__version__", *_PUBLIC]


def __getattr__(name: str) -> Any:
    if name in _PUBLIC:
        return getattr(import_module(_PUBLIC[name]), name)
    raise AttributeError(f"module 'luvc_export' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
