"""One family a file, named by its Hugging Face ``model_type``; ``find`` discovers them, and installed ones too.

A package outside this one adds a family through the entry-point group ``luvc_export.families``: the entry's name is the
``model_type``, its value ``module:FAMILY``.
"""

from __future__ import annotations

from importlib.metadata import version
from typing import Any

from luvc_export.errors import CheckpointError, MachineError, did_you_mean
from luvc_export.export.families.base import Family
from luvc_export.registry import Registry

ENTRY_POINTS = "luvc_export.families"


def _misfit(name: str, family: Any) -> str | None:
    if not isinstance(family, Family) or family.model_type != name:
        return f"an instance of Family whose model_type is {name!r}"
    builds = hasattr(family, "architecture") or type(family).build is not Family.build
    return None if builds else "a Family that has an architecture, or builds its model itself"


_FAMILIES: Registry[Family] = Registry("family", __name__, ENTRY_POINTS, "FAMILY", _misfit, CheckpointError)
#: Models for retrieval, which give vectors and nothing else.
_RETRIEVAL: Registry[Family] = Registry(
    "family", "luvc_export.export.retrieval", "luvc_export.retrieval", "FAMILY", _misfit, CheckpointError
)


#: Every ``model_type`` there is a family for, and those of this package.
names, built_in = _FAMILIES.names, _FAMILIES.built_in
#: Every ``model_type`` of models for retrieval.
retrieval_names = _RETRIEVAL.names


def find(model_type: str, where: str) -> Family:
    """The family of ``model_type``; ``where`` names the checkpoint in the error. Our own come before installed ones.

    Raises:
        CheckpointError: No family of that name, an installed one cannot be loaded, or it has open questions.
        MachineError: The installed transformers is older than the family's model.
    """
    try:
        family = _FAMILIES.get(model_type) or _RETRIEVAL.get(model_type)
    except ImportError as error:
        raise MachineError(
            "this family's model is not in the installed transformers",
            where=where,
            got=f"transformers {version('transformers')}: {error}",
            fix="pip install -U transformers",
        ) from error
    if family is None:
        raise CheckpointError(
            "no family for this model type",
            where=where,
            got=repr(model_type),
            expected=did_you_mean(model_type, names()),
            fix="export a checkpoint of one of these families, or add one: docs/adding-a-family.md",
        )
    if family.open_questions:
        raise CheckpointError(
            "this family is not finished",
            where=where,
            got="; ".join(family.open_questions),
            expected="no open questions",
            fix=f"answer them in the file of {model_type}, take each line away, and run the families' tests",
        )
    return family
