"""Old names of modules that the documentation told others to import: they work, and say where the module is now.

``import luvc_export`` puts ``Finder`` behind Python's own finders, so it sees only what is nowhere else.
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib import import_module
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType


@dataclass(frozen=True)
class Moved:
    """Where a module is now, and what of it has another name there."""

    module: str
    names: Mapping[str, str] = field(default_factory=dict)


MOVED = {
    "luvc_export.contract": Moved("luvc_export.core.graph_io"),
    "luvc_export.cut": Moved("luvc_export.core.tiling", {"Cut": "Tiling", "Tiling": "TilingRule"}),
    "luvc_export.plan": Moved("luvc_export.core.plan"),
    "luvc_export.shapes": Moved("luvc_export.core.shapes"),
    "luvc_export.target": Moved("luvc_export.core.target"),
    "luvc_export.export.decoder": Moved("luvc_export.export.llm.decoder"),
    "luvc_export.export.mrope": Moved("luvc_export.export.llm.mrope"),
    "luvc_export.export.plain_vision": Moved(
        "luvc_export.export.towers.learned_position_vit", {"PlainVision": "LearnedPositionViT"}
    ),
    "luvc_export.export.rotary_vision": Moved(
        "luvc_export.export.towers.rotary_position_vit", {"RotaryVision": "RotaryPositionViT"}
    ),
    "luvc_export.runtime.trt": Moved("luvc_export.runtime.tensorrt.backend"),
    "luvc_export.runtime.video": Moved("luvc_export.runtime.media.video"),
}


class Finder(MetaPathFinder, Loader):
    """Finds the modules of ``MOVED`` and warns (DeprecationWarning) when one is imported."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """See ``MetaPathFinder``."""
        return ModuleSpec(fullname, self) if fullname in MOVED else None

    def exec_module(self, module: ModuleType) -> None:
        """Let every name of the new module be found under its old one."""
        moved = MOVED[module.__name__]
        warnings.warn(f"{module.__name__} is {moved.module} now", DeprecationWarning, stacklevel=2)
        now = import_module(moved.module)
        module.__doc__ = now.__doc__
        module.__dict__["__getattr__"] = lambda name: getattr(now, moved.names.get(name, name))


def install() -> None:
    """Put the finder at the end of ``sys.meta_path``, once."""
    if not any(isinstance(finder, Finder) for finder in sys.meta_path):
        sys.meta_path.append(Finder())
