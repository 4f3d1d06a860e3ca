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
    exported_folder = made_once(cache, Path(__file__), partial(_export, name))
    shutil.copytree(exported_folder, folder, dirs_exist_ok=True)
    return load(folder / "bundle")


def _export(name: str, folder: Path) -> None:
    tiny = exportable(name)
    folder.mkdir()
    checkpoint = str(family_chat.save(tiny, folder / "checkpoint"))
    export_bundle(checkpoint, folder / "bundle", {"thirds": tiny.thirds}, image_size=tiny.size, text_capacity=256)
