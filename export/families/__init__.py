"""One family a file, named by its Hugging Face ``model_type``; ``find`` discovers them."""

from __future__ import annotations

import pkgutil
from importlib import import_module
from pathlib import Path

from luvc_export.errors import CheckpointError, did_you_mean
from luvc_export.export.families.base import Family


def names() -> list[str]:
    """Every ``model_type`` there is a family for."""
    found = (module.name for module in pkgutil.iter_modules([str(Path(__file__).parent)]))
    return sorted(name for name in found if name != "base")


def find(model_type: str, where: str) -> Family:
    """The family of ``model_type``; ``where`` names the checkpoint in the error.

    Raises:
        CheckpointError: No family of that name.
    """
    if model_type not in names():
        raise CheckpointError(
            "no family for this model type",
            where=where,
            got=repr(model_type),
            expected=did_you_mean(model_type, names()),
            fix="export a checkpoint of one of these families, or add one: docs/adding-a-family.md",
        )
    family: Family = import_module(f"{__name__}.{model_type}").FAMILY
    return family
