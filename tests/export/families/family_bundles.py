"""Bundles of the families' ``exportable`` models with their default plan, traced once for all, kept between runs.

And one with buckets.
"""

from __future__ import annotations

import shutil
from functools import partial
from pathlib import Path

import family_chat
from family_questions import exportable, small
from flat_plans import replan
from made_once import made_once

from luvc_export.bundle.folder import Bundle, load
from luvc_export.core.plan.plan_set import with_buckets
from luvc_export.pipeline import export_bundle


def exported(cache: Path, name: str, folder: Path) -> Bundle:
    """The bundle ``folder/bundle`` of ``folder/checkpoint``: copies of what ``cache`` has, which a test may change."""
    shutil.copytree(kept(cache, name), folder, dirs_exist_ok=True)
    return load(folder / "bundle")


def kept(cache: Path, name: str) -> Path:
    """What ``cache`` has: ``bundle`` and ``checkpoint``, for whoever only reads them."""
    return made_once(cache, Path(__file__), partial(_export, name))


def with_half(cache: Path) -> Path:
    """``bundle`` and ``checkpoint`` of Qwen2.5-VL: a plan that prunes in the LLM, of one layer, and half of its units.

    Nobody changes them.
    """
    return made_once(cache, Path(__file__), _export_half)


def _export_half(folder: Path) -> None:
    tiny = small("qwen2_5_vl", 1)  # buckets are of the encoder
    folder.mkdir()
    checkpoint = str(family_chat.save(tiny, folder / "checkpoint"))
    plans = with_buckets({"some": replan(tiny.thirds, merges=(), keep=(5,), last_layer="full")}, [50, 100])
    export_bundle(checkpoint, folder / "bundle", plans, image_size=tiny.size, text_capacity=256)


def _export(name: str, folder: Path) -> None:
    tiny = exportable(name)
    folder.mkdir()
    checkpoint = str(family_chat.save(tiny, folder / "checkpoint"))
    export_bundle(checkpoint, folder / "bundle", {"thirds": tiny.thirds}, image_size=tiny.size, text_capacity=256)
