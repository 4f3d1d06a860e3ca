"""``model_type`` of configs that no family is for: what may be done about each."""

from __future__ import annotations

import re

from luvc_export.errors import CheckpointError
from luvc_export.export import families

#: Types of configs that were not written for transformers' own classes, and repositories that are.
_CONVERTED = {
    "internvl_chat": "OpenGVLab/InternVL3-1B-hf",
    "llava_llama": "llava-hf/llava-1.5-7b-hf",
    "llava_mistral": "llava-hf/llava-1.5-7b-hf",
    "llava_qwen": "llava-hf/llava-onevision-qwen2-0.5b-ov-hf",
}


def check_model_type(model_type: str, where: str) -> None:
    """Refuse a type without a family.

    Names that resemble one are other models more often than mistakes (gemma3n, mllama, idefics2), so only another
    spelling of the same letters is suggested.

    Args:
        model_type: Of a checkpoint's config.
        where: The file.

    Raises:
        CheckpointError: There is no family for it.
    """
    known = families.names()
    if model_type in known:
        return
    if model_type in _CONVERTED:
        raise CheckpointError(
            "this repository is not in transformers' own format",
            where=where,
            got=repr(model_type),
            expected=f"one converted for transformers, whose name ends in -hf, such as {_CONVERTED[model_type]}",
            fix="export the -hf repository of this model",
        )
    alike = [name for name in known if _letters(name) == _letters(model_type)]
    hint = f"did you mean {alike[0]!r}? " if alike else ""
    raise CheckpointError(
        "no family for this model type",
        where=where,
        got=repr(model_type),
        expected=f"{hint}known: {', '.join(known)}",
        fix="export a checkpoint of one of these families, or add one: docs/adding-a-family.md",
    )


def _letters(name: str) -> str:
    return re.sub(r"[^a-z0-9]", "", name.lower())
