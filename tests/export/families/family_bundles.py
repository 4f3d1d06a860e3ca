"""Bundles of the families' ``exportable`` models with their default plan, traced once for all, kept between runs."""

from __future__ import annotations

import shutil
from functools import partial
from pathlib import Path

import family_chat
from family_questions import exportable
from made_once import made_once

from luvc_export.bundle.folder import Bundle, load
from luvc_export.pipeline import export_bundle


def exported(cache: Path, name: str, folder: Path) -> Bundle:
    """The bundle ``folder/bundle`` of ``folder/checkpoint``: copies of what ``cache`` has, which a test may change."""
    shutil.copytree(kept(cache, name), folder, dirs_exist_ok=True)
    return load(folder / "bundle")


def kept(cache: Path, name: str) -> Path:
    """What ``cache`` has: ``bundle`` and ``checkpoint``, for whoever only reads them."""
    return made_once(cache, Path(__file__), partial(_export, name))


def _export(name: str, folder: Path) -> None:
    tiny = exportable(name)
    folder.mkdir()
    checkpoint = str(family_chat.save(tiny, folder / "checkpoint"))
    export_bundle(checkpoint, folder / "bundle", {"thirds": tiny.thirds}, image_size=tiny.size, text_capacity=256)
