"""One family a file, named by its Hugging Face ``model_type``; ``find`` discovers them, and installed ones too.

A package outside this one adds a family through the entry-point group ``luvc_export.families``: the entry's name is the
``model_type``, its value ``module:FAMILY``.
"""

from __future__ import annotations

import pkgutil
from importlib import import_module
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path

from luvc_export.errors import CheckpointError, did_you_mean
from luvc_export.export.families.base import Family

ENTRY_POINTS = "luvc_export.families"


def names() -> list[str]:
    """Every ``model_type`` there is a family for, sorted."""
    return sorted({*built_in(), *_installed()})


def built_in() -> list[str]:
    """The families of this package, sorted."""
    found = (module.name for module in pkgutil.iter_modules([str(Path(__file__).parent)]))
    return sorted(name for name in found if name != "base")


def find(model_type: str, where: str) -> Family:
    """The family of ``model_type``; ``where`` names the checkpoint in the error. Our own come before installed ones.

    Raises:
        CheckpointError: No family of that name, or an installed one cannot be loaded.
    """
    if model_type in built_in():
        family: Family = import_module(f"{__name__}.{model_type}").FAMILY
        return family
    if model_type in _installed():
        return _load(_installed()[model_type])
    raise CheckpointError(
        "no family for this model type",
        where=where,
        got=repr(model_type),
        expected=did_you_mean(model_type, names()),
        fix="export a checkpoint of one of these families, or add one: docs/adding-a-family.md",
    )


def _installed() -> dict[str, EntryPoint]:
    return {entry.name: entry for entry in entry_points(group=ENTRY_POINTS)}


def _load(entry: EntryPoint) -> Family:
    try:
        found = entry.load()
    except (ImportError, AttributeError) as error:
        raise CheckpointError(
            "an installed family cannot be loaded",
            where=f"{ENTRY_POINTS}: {entry.name} = {entry.value}",
            got=str(error),
            fix="update or remove the package that brings it",
        ) from error
    if not isinstance(found, Family) or found.model_type != entry.name:
        raise CheckpointError(
            "an installed family is none",
            where=f"{ENTRY_POINTS}: {entry.name} = {entry.value}",
            got=f"{type(found).__name__} {getattr(found, 'model_type', '')}".strip(),
            expected=f"an instance of Family whose model_type is {entry.name!r}",
        )
    return found
