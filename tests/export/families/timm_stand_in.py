"""timm without a torchvision: what timm takes from it is data sets and augmentations, which no model here uses.

PyPI's torchvision does not load beside a torch that is built for CPUs alone. Where timm is not there, whatever asks for
it is skipped: ``pip install --no-deps timm``.
"""

from __future__ import annotations

import enum
import importlib
import importlib.machinery
import sys
import types
from importlib.util import find_spec
from typing import Any
from unittest import mock

import pytest
from transformers.utils import import_utils

_MODULES = ("", ".transforms", ".transforms.functional", ".datasets", ".datasets.folder", ".models", ".ops", ".utils")
_MODULES += (".models.feature_extraction", ".ops.misc")
_Modes = enum.Enum("_Modes", "NEAREST BILINEAR BICUBIC BOX HAMMING LANCZOS")


class _Module(types.ModuleType):
    """Has a class of any name."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return _Modes if name == "InterpolationMode" else type(name, (), {})


def load() -> None:
    """Import timm, or skip the test."""
    if "timm" in sys.modules:
        return
    if find_spec("timm") is None:
        pytest.skip("pip install --no-deps timm")
    if find_spec("torchvision") is None:
        for name in (f"torchvision{part}" for part in _MODULES):
            module = _Module(name)
            module.__path__ = []
            module.__spec__ = importlib.machinery.ModuleSpec(name, None)
            sys.modules[name] = module
            parent, _, own = name.rpartition(".")
            if parent:
                setattr(sys.modules[parent], own, module)
    importlib.import_module("timm")
    with mock.patch.object(import_utils, "is_torchvision_available", lambda: True):
        import_utils.is_timm_available.cache_clear()
        assert import_utils.is_timm_available()  # remembered from here on
    for name in [name for name, module in sys.modules.items() if isinstance(module, _Module)]:
        del sys.modules[name]
