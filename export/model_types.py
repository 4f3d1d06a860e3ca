"""``model_type`` of configs that no family is for: what may be done about each."""

from __future__ import annotations

import re
from collections.abc import Mapping
from difflib import SequenceMatcher
from typing import Any, NamedTuple

from luvc_export.errors import CheckpointError, MachineError
from luvc_export.export import families
from luvc_export.export.families._refused import REFUSED
from luvc_export.export.families.base import Family

#: Types of configs that were not written for transformers' own classes, and repositories that are.
_CONVERTED = {
    "internvl_chat": "OpenGVLab/InternVL3-1B-hf",
    "llava_llama": "llava-hf/llava-1.5-7b-hf",
    "llava_mistral": "llava-hf/llava-1.5-7b-hf",
    "llava_qwen": "llava-hf/llava-onevision-qwen2-0.5b-ov-hf",
}


class Halves(NamedTuple):
    """``model_type`` of a checkpoint's vision tower and of its text model; None where its config does not say."""

    tower: str | None
    text: str | None


def check_model_type(config: Mapping[str, Any], where: str) -> None:
    """Refuse a type without a family.

    Names that resemble one are other models more often than mistakes (gemma3n, mllama, idefics2), so only another
    spelling of the same letters is taken for one; else the nearest family is told by what the checkpoint is made of.

    Args:
        config: Of a checkpoint.
        where: The file.

    Raises:
        CheckpointError: There is no family for it.
    """
    known, model_type = families.names(), str(config.get("model_type"))
    if model_type in known or model_type in families.retrieval_names():
        return
    if model_type in _CONVERTED:
        raise CheckpointError(
            "this repository is not in transformers' own format",
            where=where,
            got=repr(model_type),
            expected=f"one converted for transformers, whose name ends in -hf, such as {_CONVERTED[model_type]}",
            fix="export the -hf repository of this model",
        )
    if model_type in REFUSED:
        raise CheckpointError(
            "this model is known, and is not exported",
            where=where,
            got=f"{model_type!r}: {REFUSED[model_type]}",
            expected=f"one of {', '.join(known)}",
            fix="docs/families.md says which document models are exported",
        )
    alike = [name for name in known if _letters(name) == _letters(model_type)]
    hint = f"did you mean {alike[0]!r}? " if alike else ""
    halves = halves_of(config)
    guide = "export a checkpoint of one of these families, or add one: docs/adding-a-family.md"
    raise CheckpointError(
        "no family for this model type",
        where=where,
        got=f"{model_type!r}, {_described('vision tower', halves.tower)}, {_described('text model', halves.text)}",
        expected=f"{hint}known: {', '.join(known)}",
        fix=guide if alike else f"{guide}{_beside(model_type, halves)}",
    )


def halves_of(config: Mapping[str, Any]) -> Halves:
    """What the config's two halves are, where it does not say so by what transformers takes for its type."""
    types = [_type_of(config.get(name)) for name in ("vision_config", "text_config")]
    if None in types:
        usual = _usual(str(config.get("model_type")))
        types = [one or other for one, other in zip(types, usual, strict=True)]
    return Halves(*types)


def nearest(model_type: str, halves: Halves) -> Family | None:
    """The family that shares most with a checkpoint: a half itself, then its kin, then letters of the name.

    None where neither half is any family's, nor of the kin of one.
    """
    if halves.tower is None:
        return None

    def shared(name: str) -> tuple[float, float]:
        try:
            towers, texts = parts_of(families.find(name, "the families"))
        except MachineError:  # newer than the installed transformers
            return 0.0, 0.0
        half = [_likeness(halves.tower, towers), _likeness(halves.text, texts)]
        return sum(half), SequenceMatcher(None, model_type, name).ratio()

    best = max(families.names(), key=shared)
    return families.find(best, "the families") if shared(best)[0] else None


def parts_of(family: Family) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """``model_type`` of the vision towers and of the text models that a family takes."""
    config = family.tiny_config()
    text, tower = config.get_text_config().model_type, config.vision_config.model_type
    return family.towers or (tower,), family.text_models if text in family.text_models else (text,)


def _beside(model_type: str, halves: Halves) -> str:
    """What the nearest family shares with the checkpoint, and what differs."""
    if halves.tower is None:
        return "; without a vision_config this is no vision-language model that transformers describes by its halves"
    family = nearest(model_type, halves)
    if family is None:
        return "; no family has this tower or this text model, so both halves would be new"
    lines = [
        _difference(kind, own, theirs)
        for kind, own, theirs in zip(("vision tower", "text model"), halves, parts_of(family), strict=True)
    ]
    return f"; nearest is {family.model_type!r}: {', '.join(lines)}"


def _difference(kind: str, own: str | None, theirs: tuple[str, ...]) -> str:
    return f"the same {kind}" if own in theirs else f"its {kind} is {' or '.join(theirs)}, this one {own or 'not said'}"


def _described(kind: str, model_type: str | None) -> str:
    """A half by its type and the class transformers makes of it."""
    if model_type is None:
        return f"no {kind} that its config names"
    from transformers.models.auto.modeling_auto import MODEL_MAPPING_NAMES

    class_name: Any = MODEL_MAPPING_NAMES.get(model_type)
    return f"{kind} {model_type}" + (f" ({class_name})" if isinstance(class_name, str) else "")


def _type_of(part: Any) -> str | None:
    model_type = part.get("model_type") if isinstance(part, dict) else None
    return model_type if isinstance(model_type, str) and re.fullmatch(r"[\w.-]{1,64}", model_type) else None


def _usual(model_type: str) -> Halves:
    """The halves that transformers' config class of this type has by default; the checkpoint is not read."""
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING

    try:
        config = CONFIG_MAPPING[model_type]()
        text = config.get_text_config().model_type
        tower = getattr(getattr(config, "vision_config", None), "model_type", None)
    except Exception:  # an unknown type is a KeyError, and some configs cannot be made of nothing
        return Halves(None, None)
    return Halves(tower, None if text == model_type and tower is None else text)


def _likeness(own: str | None, theirs: tuple[str, ...]) -> float:
    """2 for the same, 1 for kin: names that begin with the same letters, as gemma and gemma3_text do."""
    if own is None:
        return 0.0
    return 2.0 if own in theirs else float(_stem(own) in map(_stem, theirs))


def _stem(name: str) -> str:
    return re.split(r"[^a-z]", name.lower())[0]


def _letters(name: str) -> str:
    return re.sub(r"[^a-z0-9]", "", name.lower())
