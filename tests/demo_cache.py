"""The demo bundle, exported once for all workers."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory

import cut_checkpoint
from flat_plans import replan
from made_once import made_once

from luvc_export import export_bundle, make_plan
from luvc_export.bundle.folder import Bundle, load
from luvc_export.demo import CHECKPOINT, IMAGE_SIZE

PLANS = ("none", "even", "thirds")


def demo_bundle(cache: Path) -> Bundle:
    """The bundled checkpoint with ``PLANS`` and debug decoders, from ``cache`` or exported there."""
    return load(made_once(cache, Path(__file__), _export))


def unpadded_bundle(cache: Path) -> Bundle:
    """Its first layers with ``thirds`` alone, whose graphs are told nothing of padding."""
    return load(made_once(cache, Path(__file__), _export_unpadded))


def _export_unpadded(folder: Path) -> None:
    """One merge, one prune and a drop, in two blocks and two layers."""
    with TemporaryDirectory() as folder_of_model:
        checkpoint = cut_checkpoint.write(Path(folder_of_model), 2, 2)
        cut_checkpoint.write_weights(checkpoint / "model.safetensors", 2, 2)
        plan = make_plan(str(checkpoint), "thirds", image_size=IMAGE_SIZE)
        plans = {"thirds": replan(plan, keep=(plan.vision_tokens // 2, 0))}
        export_bundle(str(checkpoint), folder, plans, image_size=IMAGE_SIZE, text_capacity=256, padding=False)


def _export(folder: Path) -> None:
    plans = {name: make_plan(str(CHECKPOINT), name, image_size=IMAGE_SIZE) for name in PLANS}
    export_bundle(str(CHECKPOINT), folder, plans, image_size=IMAGE_SIZE, text_capacity=256, debug=True)
