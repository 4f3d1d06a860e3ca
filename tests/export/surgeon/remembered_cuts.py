"""A graph that several tests cut alike is cut once, while nothing that cutting reads has changed."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from hashlib import sha256
from typing import Any

import onnx
import onnx.inliner

from luvc_export.core.target import TargetSpec
from luvc_export.export.surgeon import run_passes

#: Modules whose names passes read; a sabotaged test replaces one of them, or an entry of a class or a table there.
_READ = ("luvc_export.export.surgeon", "luvc_export.core", "luvc_export.bundle", "luvc_export.errors", "onnx.inliner")
#: Results by key, and the objects in the key, which hold their ``id`` as long as they live.
_cuts: dict[tuple[Any, ...], tuple[list[object], bytes]] = {}


def cut(
    model: onnx.ModelProto, target: TargetSpec, passes: tuple[Any, ...], options: dict[str, Any]
) -> onnx.ModelProto:
    """A copy of ``run_passes``' graph, all passes where none is named."""
    objects = [*passes, *read()]
    graph = sha256(model.SerializeToString(deterministic=True)).digest()
    key = (graph, target, tuple(sorted(options.items())), len(passes), *map(id, objects))
    if key not in _cuts:
        result = run_passes(model, target, **({"passes": passes} if passes else {}), **options)[0]
        _cuts[key] = objects, result.SerializeToString()
    return onnx.ModelProto.FromString(_cuts[key][1])


def read() -> Iterator[object]:
    """What the names of those modules stand for, and the entries of their classes and tables."""
    for name in sorted(sys.modules):
        if name.startswith(_READ):
            for word, value in vars(sys.modules[name]).items():
                if not word.startswith("__"):
                    yield value
                    if isinstance(value, type):
                        yield from vars(value).values()
                    elif isinstance(value, dict):
                        yield from value.values()
