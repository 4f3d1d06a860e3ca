"""The demo bundle and shorter ones, each exported once for all workers."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

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


def short_bundle(cache: Path) -> Bundle:
    """The first layers with ``none`` and ``thirds`` and a debug decoder, for what asks no answer that makes sense."""
    return load(made_once(cache, Path(__file__), _export_short))


def narrow_bundle(cache: Path, dtype: str) -> Bundle:
    """Three layers and their weights in ``dtype``, fp16 or bf16; a layer stands above the prune of ``thirds``."""
    return load(made_once(cache, Path(__file__), partial(_export_narrow, dtype)))


def _export_narrow(dtype: str, folder: Path) -> None:
    _export_cut(folder, ("thirds",), layers=3, stored=dtype, dtype=dtype)


def _export_unpadded(folder: Path) -> None:
    _export_cut(folder, ("thirds",), padding=False)


def _export_short(folder: Path) -> None:
    _export_cut(folder, ("none", "thirds"), debug=True)


def _export_cut(folder: Path, names: Sequence[str], layers: int = 2, stored: str = "fp16", **options: Any) -> None:
    """``thirds`` is one merge, one prune and a drop, in two blocks and the last two layers."""
    with TemporaryDirectory() as folder_of_model:
        checkpoint = cut_checkpoint.write(Path(folder_of_model), layers, 2)
        cut_checkpoint.write_weights(checkpoint / "model.safetensors", layers, 2, stored)
        plans = {name: make_plan(str(checkpoint), name, image_size=IMAGE_SIZE) for name in names}
        every = plans["thirds"].vision_tokens
        plans["thirds"] = replan(plans["thirds"], keep=(*[every] * (layers - 2), every // 2, 0))
        export_bundle(str(checkpoint), folder, plans, image_size=IMAGE_SIZE, text_capacity=256, **options)


def _export(folder: Path) -> None:
    plans = {name: make_plan(str(CHECKPOINT), name, image_size=IMAGE_SIZE) for name in PLANS}
    export_bundle(str(CHECKPOINT), folder, plans, image_size=IMAGE_SIZE, text_capacity=256, debug=True)
