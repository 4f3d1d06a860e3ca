"""Targets, found by file name: ``jetson_thor.py`` is ``jetson-thor``. A new target is one new file with ``TARGET``.

A package outside this one adds a target through the entry-point group ``luvc_export.targets``: the entry's name is the
target's, its value ``module:TARGET``.
"""

from __future__ import annotations

from typing import Any

from luvc_export.core.target import Target
from luvc_export.registry import Registry

ENTRY_POINTS = "luvc_export.targets"


def _misfit(name: str, target: Any) -> str | None:
    fits = isinstance(target, Target) and target.name == target.spec.name == name
    return None if fits else f"a Target whose name, and whose graphs' name, is {name!r}"


_TARGETS: Registry[Target] = Registry(
    "target", __name__, ENTRY_POINTS, "TARGET", _misfit, dashes=True, where="--target"
)


#: Names of all targets, and of those of this package; the record of one.
names, built_in, find = _TARGETS.names, _TARGETS.built_in, _TARGETS.find
