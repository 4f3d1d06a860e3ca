"""What a checkpoint's ``preprocessor_config.json`` says of pictures; the family's own values where it is silent."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from luvc_export.core.json_file import read_json
from luvc_export.errors import CheckpointError
from luvc_export.export.checkpoint import Checkpoint
from luvc_export.export.families.base import Normalise

_LIMIT = 2**20


def _number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= 1e6


def _three(value: Any) -> bool:
    return isinstance(value, list) and len(value) == 3 and all(map(_number, value))


#: What is read of the file, and what it must be.
_FIELDS: dict[str, Callable[[Any], bool]] = {
    "image_mean": _three,
    "image_std": lambda value: _three(value) and all(value),
    "rescale_factor": lambda value: _number(value) and value > 0,
    "resample": lambda value: isinstance(value, int) and not isinstance(value, bool),
}


def processor(checkpoint: Checkpoint) -> dict[str, Any]:
    """The file's content; empty without the file."""
    path = checkpoint.folder / "preprocessor_config.json"
    if not path.exists():
        return {}
    data = read_json(path, _LIMIT, CheckpointError, "the processor's file")
    if not isinstance(data, dict):
        raise CheckpointError("the processor's file is not a JSON object", where=str(path), got=type(data).__name__)
    for name, wanted in _FIELDS.items():
        if data.get(name) is not None and not wanted(data[name]):
            raise CheckpointError(
                "a field of the processor's file is not what it should be",
                where=f"{path}: {name}",
                got=repr(data[name])[:80],
                fix="download the checkpoint again",
            )
    return {name: value for name, value in data.items() if value is not None or name not in _FIELDS}


def normalise(checkpoint: Checkpoint) -> Normalise:
    """Pixel arithmetic of the vision graph."""
    given, pixels = processor(checkpoint), checkpoint.family.pixels
    return Normalise(
        given.get("rescale_factor", pixels.rescale),
        list(given.get("image_mean", pixels.mean)),
        list(given.get("image_std", pixels.std)),
    )
