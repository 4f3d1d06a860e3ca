"""What a checkpoint's ``preprocessor_config.json`` says of pictures; the family's own values where it is silent."""

from __future__ import annotations

import json
from typing import Any

from luvc_export.export.checkpoint import Checkpoint
from luvc_export.export.families.base import Normalise


def processor(checkpoint: Checkpoint) -> dict[str, Any]:
    """The file's content; empty without the file."""
    path = checkpoint.folder / "preprocessor_config.json"
    data: dict[str, Any] = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    return data


def normalise(checkpoint: Checkpoint) -> Normalise:
    """Pixel arithmetic of the vision graph."""
    given, pixels = processor(checkpoint), checkpoint.family.pixels
    return Normalise(
        given.get("rescale_factor", pixels.rescale),
        list(given.get("image_mean", pixels.mean)),
        list(given.get("image_std", pixels.std)),
    )
