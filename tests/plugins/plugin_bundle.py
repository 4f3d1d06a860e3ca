"""The bundled model exported for plugins, once."""

from __future__ import annotations

from pathlib import Path

from made_once import made_once

from luvc_export import export_bundle, make_plan
from luvc_export.bundle.folder import Bundle, load
from luvc_export.demo import CHECKPOINT, IMAGE_SIZE

PLAN = "thirds"


def plugin_bundle(cache: Path) -> Bundle:
    """All its layers with ``PLAN`` alone, as an export makes them by default."""
    return load(made_once(cache, Path(__file__), _export))


def _export(folder: Path) -> None:
    plans = {PLAN: make_plan(str(CHECKPOINT), PLAN, image_size=IMAGE_SIZE)}
    export_bundle(str(CHECKPOINT), folder, plans, image_size=IMAGE_SIZE, text_capacity=256)
