"""Targets, found by file name: ``jetson_thor.py`` is ``jetson-thor``. A new target is one new file with ``TARGET``."""

from __future__ import annotations

import pkgutil
from importlib import import_module

from luvc_export.core.target import Target
from luvc_export.errors import UsageError, did_you_mean


def names() -> list[str]:
    """Names of all targets, in alphabetical order."""
    files = (item.name for item in pkgutil.iter_modules(__path__))
    return sorted(name.replace("_", "-") for name in files if not name.startswith("_"))


def find(name: str) -> Target:
    """The record of one target.

    Raises:
        UsageError: There is no such target.
    """
    known = names()
    if name not in known:
        raise UsageError("unknown target", where="--target", got=repr(name), expected=did_you_mean(name, known))
    target: Target = import_module(f"{__name__}.{name.replace('-', '_')}").TARGET
    return target
